//! `/api/v1/auth/…`: signing in and out, going on with a new token, revoking one, and who one is.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::auth::{COOKIE, ClientIp};
use super::caller::Caller;
use super::problem::Problem;
use super::server::Peer;
use super::{Edge, body};
use crate::audit::Entry;
use crate::auth::identity::Credential;
use crate::auth::{Issued, LoginError};
use crate::clock;
use crate::metrics::record;

/// The largest body of these calls, in bytes.
const BODY_BYTES: usize = 32 << 10;
/// The longest token id, in characters.
const TOKEN_ID_MAX: usize = 200;
/// Ten years, in seconds.
const EXPIRES_IN_MAX: f64 = 315_360_000.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: String,
    password: String,
    /// Whether the token shall be set as a cookie too.
    #[serde(default)]
    cookie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(default)]
    token_id: Option<String>,
    /// Of a token id: when that token would have ended, in seconds from now.
    #[serde(default)]
    expires_in: Option<f64>,
    #[serde(default)]
    token: Option<String>,
}

/// Reads a small JSON body, whatever its content type says.
async fn read<T: DeserializeOwned>(edge: &Edge, body: Body) -> Result<T, Problem> {
    let bytes = body::read_small(body, BODY_BYTES, edge.settings().limits.body_timeout).await?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = error.inner().to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let kind = if error.inner().is_data() { "invalid-body" } else { "broken-json" };
        let status = if error.inner().is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Problem::new(status, kind, message)
    })
}

/// Signs in.
#[utoipa::path(
    post,
    path = "/api/v1/auth/login",
    tag = "auth",
    request_body(content = ref("#/components/schemas/Login"), content_type = "application/json", example = json!({"username": "alice", "password": "correct horse battery staple"})),
    responses(
        (status = 200, description = "A token", body = ref("#/components/schemas/Token"), content_type = "application/json"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 413, description = "The body or an event is too large", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 422, description = "An event or a field is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 429, description = "Too much at once; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
    security(()),
)]
pub(super) async fn login(State(edge): State<Edge>, request: Request) -> Result<Response, Problem> {
    let ClientIp(ip) = request.extensions().get().copied().unwrap_or(ClientIp(None));
    let tls = request.extensions().get::<Peer>().is_some_and(|peer| peer.tls);
    let Login { username, password, cookie } = read(&edge, request.into_body()).await?;
    let mut entry = Entry { event: "login", client_ip: ip.map(|ip| ip.to_string()), ..Entry::default() };
    entry.subject = Some(username.chars().take(200).collect());
    let outcome = match edge.guards.login(ip) {
        Err(too_much) => Err(Problem::too_much(too_much)),
        Ok(()) => edge.auth.login(username, password).await.map_err(|error| match error {
            LoginError::Wrong => Problem::new(StatusCode::UNAUTHORIZED, "wrong-login", error.to_string()),
            LoginError::Busy => Problem::busy(error.to_string()),
            LoginError::Failed => Problem::unavailable("internal", error.to_string()),
        }),
    };
    match outcome {
        Ok(issued) => {
            record::login("ok");
            edge.audit.note(Entry { status: Some(200), ..entry });
            Ok(answer(&issued, cookie, tls))
        }
        Err(problem) => {
            record::login(problem.kind());
            let (status, reason) = (Some(problem.status().as_u16()), Some(problem.kind().to_owned()));
            edge.audit.note(Entry { status, reason, ..entry });
            Err(problem)
        }
    }
}

fn answer(issued: &Issued, cookie: bool, tls: bool) -> Response {
    let body = json!({ "access_token": issued.token, "token_type": "Bearer", "expires_in": issued.expires_in });
    let mut response = Json(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    if cookie {
        let secure = if tls { "; Secure" } else { "" };
        let text = format!(
            "{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}{secure}",
            issued.token, issued.expires_in
        );
        // A token's letters are those of a header.
        headers.extend(text.parse().ok().map(|value| (header::SET_COOKIE, value)));
    }
    response
}

/// Whether a request came with the cookie and nothing else, so that the answer sets it again.
fn by_cookie(request: &Request) -> bool {
    let asked = request.uri().query().unwrap_or_default();
    !request.headers().contains_key(header::AUTHORIZATION) && !asked.contains("token=")
}

/// A new token for the bearer of one.
#[utoipa::path(
    post,
    path = "/api/v1/auth/refresh",
    tag = "auth",
    responses(
        (status = 200, description = "A new token", body = ref("#/components/schemas/Token"), content_type = "application/json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn refresh(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let cookie = by_cookie(&request);
    body::decline(request).await;
    let issued = edge.auth.refresh(&caller.identity);
    let issued = issued.map_err(|error| Problem::new(StatusCode::FORBIDDEN, "no-refresh", error.to_string()))?;
    edge.audit.note(Entry { status: Some(200), ..caller.entry("refresh") });
    Ok(answer(&issued, cookie, caller.peer.tls))
}

/// Ends the token that the call was made with.
#[utoipa::path(
    post,
    path = "/api/v1/auth/logout",
    tag = "auth",
    responses(
        (status = 204, description = "The token is revoked"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn logout(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    body::decline(request).await;
    let (Credential::Token(facts) | Credential::User(facts)) = &caller.identity.credential else {
        let detail = "a key is not signed out; it is revoked with tidegate key revoke";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "not-a-token", detail));
    };
    revoke_now(&edge, facts.id.clone(), caller.identity.expires_ms).await?;
    edge.audit.note(Entry { status: Some(204), ..caller.entry("logout") });
    let gone = format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

/// Revokes somebody's token; for admins.
#[utoipa::path(
    post,
    path = "/api/v1/auth/revoke",
    tag = "auth",
    request_body(content = ref("#/components/schemas/Revoke"), content_type = "application/json", example = json!({"token_id": "5d41402abc4b2a76"})),
    responses(
        (status = 204, description = "The token is revoked"),
        (status = 400, description = "A parameter or the body is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 403, description = "The credential does not allow it", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 413, description = "The body or an event is too large", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 422, description = "An event or a field is not right", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
        (status = 503, description = "The daemon cannot do it now; see Retry-After", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn revoke(State(edge): State<Edge>, caller: Caller, request: Request) -> Result<Response, Problem> {
    if let Err(problem) = caller.is_admin() {
        body::decline(request).await;
        return Err(problem);
    }
    let wish: Revoke = read(&edge, request.into_body()).await?;
    let end = wish.expires_in.map(end_of).transpose()?;
    let proper = |id: &str| {
        (1..=TOKEN_ID_MAX).contains(&id.chars().count()) && !id.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let (id, expires_ms) = match (wish.token_id, wish.token) {
        (Some(id), None) if proper(&id) => (id, end),
        (Some(_), None) => {
            let detail = format!("expected 1 to {TOKEN_ID_MAX} characters without spaces and control characters");
            return Err(Problem::parameter("token_id", detail));
        }
        (None, Some(token)) => {
            let found = edge.auth.token_id(&token);
            found.ok_or_else(|| Problem::parameter("token", "this is no token that would be taken"))?
        }
        _ => return Err(Problem::parameter("token_id", "expected one of token_id and token")),
    };
    let (entry, shown) = (caller.entry("revoke"), id.clone());
    revoke_now(&edge, id, expires_ms).await?;
    edge.audit.note(Entry { status: Some(204), reason: Some(format!("token id {shown}")), ..entry });
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// When a token ends that is good for so many seconds more. A whole number may be written as a float.
fn end_of(seconds: f64) -> Result<u64, Problem> {
    if seconds.fract() != 0.0 || !(0.0..=EXPIRES_IN_MAX).contains(&seconds) {
        let detail = format!("expected a whole number of seconds from 0 to {EXPIRES_IN_MAX}");
        return Err(Problem::parameter("expires_in", detail));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let ms = (seconds * 1000.0) as u64;
    Ok(clock::now_ms().saturating_add(ms))
}

async fn revoke_now(edge: &Edge, id: String, expires_ms: Option<u64>) -> Result<(), Problem> {
    let auth = edge.auth.clone();
    let revoked = tokio::task::spawn_blocking(move || auth.revoke(&id, expires_ms)).await;
    match revoked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::error!(%error, "a revocation cannot be kept");
            Err(Problem::unavailable("not-kept", "the revocation cannot be kept; it may be forgotten at a restart"))
        }
        Err(_) => Err(Problem::unavailable("internal", "the revocation failed")),
    }
}

/// Who the caller is and what it may do.
#[utoipa::path(
    get,
    path = "/api/v1/auth/me",
    tag = "auth",
    responses(
        (status = 200, description = "Who the caller is", body = ref("#/components/schemas/Me"), content_type = "application/json"),
        (status = 401, description = "No credential, or a wrong one", body = ref("#/components/schemas/Problem"), content_type = "application/problem+json"),
    ),
)]
pub(super) async fn me(caller: Caller) -> Response {
    let identity = &caller.identity;
    let texts = |patterns: &[crate::event::Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut body = json!({
        "subject": identity.subject,
        "credential": identity.credential.name(),
        "roles": identity.roles,
        "rooms": texts(&identity.rights.read),
        "publish": texts(&identity.rights.publish),
    });
    if let Some(end) = identity.expires_ms {
        body["expires_at"] = clock::rfc3339(end).into();
    }
    Json(body).into_response()
}
