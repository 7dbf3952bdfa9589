//! Who makes a request: its identity and its address. The door puts it into the request, the routes take it out.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode};

use super::problem::Problem;
use super::server::Peer;
use crate::audit::Entry;
use crate::auth::Identity;
use crate::auth::identity::{Credential, Rights};
use crate::engine::connections::profile::Kill;
use crate::event::{Pattern, RoomName};

/// Somebody who has passed the door.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) identity: Arc<Identity>,
    /// The address that counts, if anybody knows it.
    pub(super) ip: Option<IpAddr>,
    /// Who the socket leads to.
    pub(super) peer: Peer,
    /// Ends the socket.
    pub(super) kill: Kill,
}

impl Caller {
    /// Somebody who shows nothing, or nothing that is good, where something is open to all: it may read these rooms.
    pub(super) fn anybody(ip: Option<IpAddr>, peer: Peer, kill: Kill, read: Vec<Pattern>) -> Self {
        // Limits for each user are for each address then.
        let subject = ip.map_or_else(|| "anybody".into(), |ip| format!("anybody at {ip}").into());
        let rights = Rights { read, ..Rights::default() };
        let credential = Credential::Nothing;
        let identity = Identity { subject, credential, roles: Vec::new(), rights, expires_ms: None };
        Self { identity: Arc::new(identity), ip, peer, kill }
    }

    /// The same, for somebody who has shown who it is and may not read them.
    pub(super) fn into_anybody(self, read: Vec<Pattern>) -> Self {
        Self::anybody(self.ip, self.peer, self.kill, read)
    }

    /// The caller of a request that has passed the door.
    pub(super) fn of(extensions: &Extensions) -> Result<Self, Problem> {
        // Missing only if a route stood outside the door.
        extensions.get().cloned().ok_or_else(Problem::unauthorized)
    }

    /// Whether it may read a room; the answer is the same whether there is such a room.
    pub(super) fn may_read(&self, room: &RoomName) -> Result<(), Problem> {
        if self.identity.rights.may_read(room) { Ok(()) } else { Err(Problem::may_not_read(room)) }
    }

    /// Whether it may publish to a room.
    pub(super) fn may_publish(&self, room: &RoomName) -> Result<(), Problem> {
        if self.identity.rights.may_publish(room) { Ok(()) } else { Err(Problem::may_not_publish(room)) }
    }

    /// Whether it may make admin calls.
    pub(super) fn is_admin(&self) -> Result<(), Problem> {
        if self.identity.rights.admin {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "this call needs the role admin"))
    }

    /// The beginning of an audit entry.
    pub(super) fn entry(&self, event: &'static str) -> Entry {
        Entry {
            event,
            subject: Some(self.identity.subject.to_string()),
            credential: Some(self.identity.credential.name()),
            client_ip: self.ip.map(|ip| ip.to_string()),
            ..Entry::default()
        }
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.extensions)
    }
}
