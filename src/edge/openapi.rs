//! The description of the HTTP API: `/openapi.json`, put together from what stands at each route, and the page at `/docs` that shows it. Streams are described in `docs/asyncapi.yaml`.

pub(super) mod schema;

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::problem::Problem as Refusal;
use super::{answer, connections, history, login, probes, publish, rooms, stream};

/// The whole.
#[derive(OpenApi)]
#[openapi(
    info(title = "tidegate", description = "Rooms of events with replay, live over WebSocket, Server-Sent Events and long-poll."),
    paths(
        probes::livez, probes::readyz, probes::health, probes::metrics,
        rooms::list, rooms::one, history::read, publish::publish, stream::open,
        connections::list, connections::one, connections::kick,
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
    }
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| Api::openapi().to_json().unwrap_or_default());
static PAGE: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from("/openapi.json")));

/// Only its own files run, and it may speak to this daemon only.
const POLICY: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'";

/// The description.
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
