//! The routes of the native API, with those of the surfaces beside them. `docs/api.md` is its description.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};

use super::caller::Caller;
use super::problem::Problem;
use super::surfaces;
use super::{Edge, body, connections, history, login, openapi, page, pipelines, probes, publish, rooms, sinks, stream};
use crate::event::RoomName;

/// All routes. What stands before them is in [`way_in`](super::way_in).
pub(super) fn router(edge: Edge) -> Router {
    Router::new()
        .route("/", get(page::show))
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/api/health", get(probes::health))
        .route("/metrics", get(probes::metrics))
        .route("/v1/stream", get(stream::open))
        .route("/v1/rooms", get(rooms::list))
        .route("/v1/rooms/{*rest}", any(room))
        .route("/v1/pipelines", get(pipelines::list))
        .route("/v1/sinks", get(sinks::list))
        .route("/v1/sinks/{name}/events", get(sinks::events))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page_root))
        .route("/docs/", get(openapi::page))
        .route("/docs/{*file}", get(openapi::page_file))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/{id}", get(connections::one).delete(connections::kick))
        .route("/api/v1/auth/login", post(login::login))
        .route("/api/v1/auth/refresh", post(login::refresh))
        .route("/api/v1/auth/logout", post(login::logout))
        .route("/api/v1/auth/revoke", post(login::revoke))
        .route("/api/v1/auth/me", get(login::me))
        .merge(surfaces::routes(&edge))
        // Which are allowed the router says itself.
        .method_not_allowed_fallback(|| async {
            let detail = "this resource does not answer this method";
            Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .fallback(|| async { Problem::not_found("there is nothing here") })
        .with_state(edge)
}

/// `/v1/rooms/{room}`, `/v1/rooms/{room}/events` and `/v1/rooms/{room}/state`. A room's name may hold slashes, so the path is taken apart here, before it is decoded: an
/// `/events` that belongs to the name is written `%2Fevents`.
async fn room(State(edge): State<Edge>, request: Request) -> Response {
    let path = request.uri().path().strip_prefix("/v1/rooms/").unwrap_or_default();
    let (raw, part) = match (path.strip_suffix("/events"), path.strip_suffix("/state")) {
        (Some(raw), _) => (raw, Part::Events),
        (_, Some(raw)) => (raw, Part::State),
        _ => (path, Part::Room),
    };
    let name = percent_encoding::percent_decode_str(raw).decode_utf8_lossy();
    let name = match RoomName::parse(&name) {
        Ok(name) => name,
        Err(error) => {
            body::decline(request).await;
            return Problem::parameter("room", error).into_response();
        }
    };
    let caller = match Caller::of(request.extensions()) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let asked = rooms::Asked { query: request.uri().query(), headers: request.headers() };
    let outcome = match (part, request.method()) {
        (Part::Events, &Method::POST) => publish::publish(&edge, &caller, name, request).await,
        (Part::Events, &Method::GET | &Method::HEAD) => history::read(&edge, &caller, &name, &asked).await,
        (Part::Events, _) => Err(Problem::method("GET, POST")),
        (Part::State, &Method::GET | &Method::HEAD) => rooms::state(&edge, &caller, &name, &asked),
        (Part::Room, &Method::GET | &Method::HEAD) => rooms::one(&edge, &caller, &name, &asked),
        (Part::State | Part::Room, _) => Err(Problem::method("GET")),
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// What of a room is asked for.
#[derive(Clone, Copy)]
enum Part {
    Room,
    Events,
    State,
}
