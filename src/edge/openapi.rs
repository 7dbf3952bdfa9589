//! The description of the HTTP API: `/openapi.json`, put together from what stands at each route, and the page at `/docs` that shows it. Streams are described in `docs/asyncapi.yaml`.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{RefOr, Required};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::problem::Problem as Refusal;
use super::{answer, connections, history, login, pipelines, probes, publish, rooms, sinks, stream};

/// The whole.
#[derive(OpenApi)]
#[openapi(
    info(title = "tidegate", description = "Rooms of events with replay, live over WebSocket, Server-Sent Events and long-poll."),
    paths(
        document, probes::livez, probes::readyz, probes::health, probes::metrics,
        rooms::list, rooms::one, rooms::state, history::read, publish::publish, stream::open,
        pipelines::list, sinks::list, sinks::events, connections::list, connections::one, connections::kick,
        login::login, login::refresh, login::logout, login::revoke, login::me,
    ),
    modifiers(&Credentials),
    security(("bearer" = []), ("query" = []), ("cookie" = [])),
)]
struct Api;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_with(Default::default);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A key or a token")).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let query = ApiKeyValue::with_description("access_token", "For clients that can set no header");
        components.add_security_scheme("query", SecurityScheme::ApiKey(ApiKey::Query(query)));
        let cookie = ApiKeyValue::with_description(super::auth::COOKIE, "Set by a login that asks for it");
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
        name_headers(api);
    }
}

/// What refusals say in headers, on whatever route.
fn name_headers(api: &mut utoipa::openapi::OpenApi) {
    let items = api.paths.paths.values_mut();
    let operations = items.flat_map(|item| [&mut item.get, &mut item.post, &mut item.delete]).flatten();
    for operation in operations {
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            body.required = Some(Required::True);
        }
        name_headers_of(operation);
    }
}

fn name_headers_of(operation: &mut Operation) {
    let header = |kind, description: &str| {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
    };
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        match status.as_str() {
            "401" => {
                let bearer = header(Type::String, "Bearer");
                response.headers.insert("WWW-Authenticate".to_owned(), bearer.into());
            }
            "429" | "503" => {
                let seconds = header(Type::Integer, "When to come back, in seconds");
                response.headers.insert("Retry-After".to_owned(), seconds.into());
            }
            _ => {}
        }
    }
}

/// The shapes of bodies and answers. Written by hand: what they allow to the letter is beyond what types can say, and the tests hold them against what the routes take and give.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // Both are made here; the test below reads them.
    let mut document = serde_json::to_value(Api::openapi()).unwrap_or_default();
    document["components"]["schemas"] = serde_json::from_str(SCHEMAS).unwrap_or_default();
    document.to_string()
});
static PAGE: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").validator_url("none")));

/// Only its own files run, and it may speak to this daemon only.
const POLICY: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";

/// The description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "health",
    responses((status = 200, description = "This description", body = serde_json::Value, content_type = "application/json")),
    security(()),
)]
pub(super) async fn document() -> Response {
    answer::json(DOCUMENT.as_str())
}

/// Its files are beside it.
pub(super) async fn page_root() -> Redirect {
    Redirect::permanent("/docs/")
}

/// The page's first file.
pub(super) async fn page() -> Response {
    file("").await
}

/// A file of the page.
pub(super) async fn page_file(Path(name): Path<String>) -> Response {
    file(&name).await
}

async fn file(name: &str) -> Response {
    match utoipa_swagger_ui::serve(name, Arc::clone(&PAGE)) {
        Ok(Some(file)) => {
            let headers =
                [(header::CONTENT_TYPE, file.content_type.as_str()), (header::CONTENT_SECURITY_POLICY, POLICY)];
            (headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) | Err(_) => Refusal::not_found("there is nothing here").into_response(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_shape_that_a_route_names_is_there() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let named: Vec<&str> =
            DOCUMENT.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(named.len() > 20);
        for name in named {
            assert!(schemas.contains_key(name), "{name}");
        }
    }
}
