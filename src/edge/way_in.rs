//! The way in: what every request passes before it comes to its route, and its answer on the way out. One function, whose steps are plain calls.
//!
//! Not layers of the router: axum puts each layer around each route, and a request then clones and boxes every one of them: of the 20 µs
//! of CPU that one publish took, 3.
//!
//! In: the panic's net, the page of another origin (CORS), the words of a surface, the door. Out: packing, what is written down of a refusal, the surface's words.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tower_http::cors::{AllowOrigin, Cors, CorsLayer};
use tower_service::Service;

use super::problem::Problem;
use super::surfaces::refusals::Dress;
use super::{Edge, answer, auth, native};

/// The whole API as hyper calls it. Clones share it: each connection has one, and what it says of other origins alone has some hundred bytes.
#[derive(Clone)]
pub struct Api(Arc<Cors<WayIn>>);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// Everything that is served.
    #[must_use]
    pub fn new(edge: Edge) -> Self {
        let routes = native::router(edge.clone());
        let cors = cors(&edge);
        Self(Arc::new(tower_layer::Layer::layer(&cors, WayIn(Arc::new((edge, routes))))))
    }
}

impl Service<Request> for Api {
    type Response = Response;
    type Error = Infallible;
    // In a box: hyper keeps a place for the future of a request as long as the connection is open.
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(Service::call(&mut Cors::clone(&self.0), request))
    }
}

/// What stands before the routes, and the routes.
#[derive(Clone)]
struct WayIn(Arc<(Edge, Router)>);

impl Service<Request> for WayIn {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let (edge, routes) = &*shared;
            let answered = AssertUnwindSafe(pass(edge, routes, request)).catch_unwind().await;
            Ok(answered.unwrap_or_else(|_| {
                tracing::error!("a request's handler panicked");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the daemon made a mistake").into_response()
            }))
        })
    }
}

/// A request's way to its route and back.
async fn pass(edge: &Edge, routes: &Router, request: Request) -> Response {
    let dress = Dress::of(edge, &request);
    let response = match auth::admit(edge, request).await {
        Ok((request, noted)) => {
            let may_be_packed = answer::may_be_packed(&request);
            // The router is always ready, and has no errors.
            let Ok(response) = routes.clone().call(request).await;
            let response = if may_be_packed { answer::pack(response).await } else { response };
            noted.answered(edge, &response);
            response
        }
        Err(response) => response,
    };
    match dress {
        Some(dress) => dress.put_on(response),
        None => response,
    }
}

fn cors(edge: &Edge) -> CorsLayer {
    // Looked up at each request, because the settings may be read again.
    let edge = edge.clone();
    let allowed = move |origin: &HeaderValue, _: &axum::http::request::Parts| {
        edge.settings().cors_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::RETRY_AFTER, header::ETAG, HeaderName::from_static("x-reconnect-token")])
        .allow_credentials(true)
}
