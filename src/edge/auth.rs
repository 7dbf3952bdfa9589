//! The door: everything but what is open needs a credential. Who shows a wrong one is told 401, the same for every wrong one; who may not do what it asks is told 403 by the route. Both are written to the audit log.

use std::borrow::Cow;
use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::problem::Problem;
use super::server::Peer;
use super::surfaces::metrics;
use super::{Edge, body, page, wellformed};
use crate::audit::Entry;
use crate::engine::connections::profile::Kill;
use crate::limits::client;
use crate::metrics::record;

/// What is open to all.
const OPEN: [&str; 7] = ["/livez", "/readyz", "/api/health", "/health", "/openapi.json", "/docs", "/api/v1/auth/login"];
/// Where whoever comes says later who it is: a Socket.IO client does so when it connects, behind its first requests.
const LATER: [&str; 2] = ["/socket.io", "/socket.io/"];
/// And the files of the page that describes the API, examples of clients, and the script that they use.
const OPEN_FILES: [&str; 3] = ["/docs/", "/examples/", "/socket.io/socket.io."];
/// Where a lost connection of the surface analytics is taken up again.
pub(super) const RECONNECT: &str = "/api/admin/analytics/reconnect";
/// The session cookie's name.
pub(super) const COOKIE: &str = "tidegate_session";

/// What a client has shown.
enum Credential<'r> {
    /// In a header or the query.
    Shown(Cow<'r, str>),
    /// In the session cookie, which a browser sends along whoever asked it to.
    Cookie(&'r str),
    /// Something that is no credential.
    Unreadable,
    None,
}

/// Lets a request through, or answers it.
pub(super) async fn admit(edge: &Edge, mut request: Request) -> Result<(Request, Noted), Response> {
    if let Err(problem) = wellformed::check(&request) {
        return Err(problem.into_response());
    }
    let ip = client_ip(edge, &request);
    request.extensions_mut().insert(ClientIp(ip));
    let path = request.uri().path();
    let is_open = OPEN.contains(&path)
        || LATER.contains(&path)
        || OPEN_FILES.iter().any(|files| path.starts_with(files))
        || (path == "/metrics" && edge.settings().metrics_public);
    // Its token says who comes, and not by what it is anywhere else.
    let is_open = is_open || path == RECONNECT;
    if is_open {
        return Ok((request, Noted(None)));
    }
    // Every request comes by a socket.
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer { address: None, tls: false });
    let shown = shown(edge, &request);
    let kill = request.extensions().get::<Kill>().cloned().unwrap_or_default();
    let caller = match identify(edge, shown, peer, kill.clone(), ip).await {
        Ok(caller) => caller,
        Err(_) if metrics::is_public(&edge.settings(), &request) => {
            Caller::anybody(ip, peer, kill, metrics::public_rooms())
        }
        Err(problem) => return Err(turn_away(edge, request, ip, problem).await),
    };
    let noted = (caller.clone(), request.method().clone(), request.uri().clone());
    request.extensions_mut().insert(caller);
    Ok((request, Noted(Some(noted))))
}

/// Who was let through and what it asked for, to be written down where the answer is that it may not. Empty where nobody had to show who it is.
pub(super) struct Noted(Option<(Caller, Method, Uri)>);

impl Noted {
    /// Writes down a refusal for want of rights.
    pub(super) fn answered(self, edge: &Edge, response: &Response) {
        let Some((caller, method, uri)) = self.0.filter(|_| response.status() == StatusCode::FORBIDDEN) else { return };
        record::request_refused("forbidden");
        let entry = Entry {
            method: Some(method.to_string()),
            path: Some(uri.path().to_owned()),
            status: Some(403),
            reason: Some("forbidden".to_owned()),
            ..caller.entry("refused")
        };
        edge.audit.note(entry);
    }
}

/// The address that counts for limits; in every request, also where the door is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientIp(pub(super) Option<IpAddr>);

fn client_ip(edge: &Edge, request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address).map(|address| address.ip());
    let settings = edge.settings();
    let forwarded: Vec<&str> =
        request.headers().get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or("?")).collect();
    let limits = &settings.limits;
    client::address(peer, &limits.trusted_proxies, limits.trusted_unix, forwarded.into_iter()).map(client::counted)
}

/// What a request shows.
fn shown(edge: &Edge, request: &Request) -> Result<String, Problem> {
    shown_in(edge, request, credential(request))
}

fn shown_in(edge: &Edge, request: &Request, credential: Credential<'_>) -> Result<String, Problem> {
    match credential {
        Credential::Shown(shown) => Ok(shown.into_owned()),
        Credential::Cookie(token) => check_origin(edge, request.uri(), request.headers()).map(|()| token.to_owned()),
        Credential::Unreadable | Credential::None => Err(Problem::unauthorized()),
    }
}

/// What a request shows that need not show anything.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    Nothing,
    /// Something that does not count, and why, in one word.
    Wrong(&'static str),
    /// A key or a token, which may be a wrong one.
    Token(String),
}

/// What a request shows, if anything; whether it is good is for whoever asks to find out.
pub(super) fn shown_if_any(edge: &Edge, request: &Request) -> Shown {
    if matches!(credential(request), Credential::None) {
        return Shown::Nothing;
    }
    match shown(edge, request) {
        Ok(token) => Shown::Token(token),
        Err(problem) => Shown::Wrong(problem.kind()),
    }
}

/// The credentials of a request that stand elsewhere than in its `token`.
pub(super) fn shown_beside_token(edge: &Edge, request: &Request) -> Result<Vec<String>, Problem> {
    let mut shown = Vec::new();
    for credential in [in_header(request), in_query(request, &["access_token"]), in_cookie(request)] {
        match credential {
            Credential::None => {}
            credential => shown.push(shown_in(edge, request, credential)?),
        }
    }
    Ok(shown)
}

async fn identify(
    edge: &Edge,
    shown: Result<String, Problem>,
    peer: Peer,
    kill: Kill,
    ip: Option<IpAddr>,
) -> Result<Caller, Problem> {
    let identity = edge.auth.identify(&shown?).await.ok_or_else(Problem::unauthorized)?;
    Ok(Caller { identity, ip, peer, kill })
}

/// The header counts where there is one, then the query, then the cookie; a wrong one is not made good by the next.
fn credential(request: &Request) -> Credential<'_> {
    let places = [in_header(request), in_query(request, &["access_token", "token"]), in_cookie(request)];
    places.into_iter().find(|credential| !matches!(credential, Credential::None)).unwrap_or(Credential::None)
}

fn in_header(request: &Request) -> Credential<'_> {
    let Some(header) = request.headers().get(header::AUTHORIZATION) else { return Credential::None };
    let bearer = header.to_str().ok().and_then(|value| value.split_once(' '));
    let key = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    key.map_or(Credential::Unreadable, |key| Credential::Shown(key.into()))
}

fn in_query<'r>(request: &'r Request, names: &[&str]) -> Credential<'r> {
    let query = request.uri().query().unwrap_or_default();
    let mut given = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| names.contains(&&**name));
    given.next().map_or(Credential::None, |(_, key)| Credential::Shown(key))
}

fn in_cookie(request: &Request) -> Credential<'_> {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map_or(Credential::None, |(_, token)| Credential::Cookie(token))
}

/// A cookie alone does not show that its owner wants the call: a browser says which page does.
fn check_origin(edge: &Edge, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("?");
    // HTTP/2 has it in the address.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(Authority::as_str)).unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, of)| !host.is_empty() && of.eq_ignore_ascii_case(host));
    if own || edge.settings().cors_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "origin",
        "a page from elsewhere may not use the session cookie (cors.origins)",
    ))
}

async fn turn_away(edge: &Edge, request: Request, ip: Option<IpAddr>, problem: Problem) -> Response {
    let reason = problem.kind();
    record::request_refused(reason);
    edge.audit.note(Entry {
        event: "refused",
        client_ip: ip.map(|ip| ip.to_string()),
        method: Some(request.method().to_string()),
        path: Some(request.uri().path().to_owned()),
        status: Some(problem.status().as_u16()),
        reason: Some(reason.to_owned()),
        ..Entry::default()
    });
    if request.uri().path() == "/" && accepts_html(request.headers()) {
        return page::sign_in();
    }
    body::decline(request).await;
    problem.into_response()
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/html"))
}
