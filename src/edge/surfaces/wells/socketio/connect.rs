//! Signing in: a client's CONNECT, with `auth.token` or with what its first request showed, and coming back to a session that broke off.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::dialect::Sio;
use super::packet;
use super::recovery::{Keeper, Kept};
use super::server::secret;
use super::session::{End, Live, POLICY, Session, State};
use crate::audit::Entry;
use crate::auth::Identity;
use crate::edge::auth::Shown;
use crate::edge::caller::Caller;
use crate::edge::problem::Problem;
use crate::edge::stream::{self, Started, Wish};
use crate::engine::rooms::StartAt;
use crate::event::{Cursor, Pattern};
use crate::limits::MessageRate;
use crate::metrics::record;

/// What a client says when it connects; what is of another kind is as if it were not there.
#[derive(Deserialize, Default)]
struct Auth {
    #[serde(default)]
    token: Value,
    #[serde(default)]
    pid: Value,
    #[serde(default)]
    offset: Value,
}

/// Why a client is not let in.
struct Refused {
    error: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let error = match problem.status().as_u16() {
            401 => "AuthenticationError",
            403 => "AuthorizationError",
            429 => "RateLimitError",
            _ => "ConnectionError",
        };
        Self { error, message: problem.detail().to_owned(), retry_after: problem.retry_after() }
    }
}

impl Session {
    pub(super) async fn connect(&mut self, namespace: &str, payload: &str) -> Result<(), End> {
        if namespace != "/" {
            let packet = packet::connect_error(namespace, &json!({ "message": "Invalid namespace" }).to_string());
            self.say(packet);
            return self.count_refusal();
        }
        if self.is_live() {
            self.error("ValidationError", "this client has signed in already");
            return Ok(());
        }
        let payload = if payload.is_empty() { "{}" } else { payload };
        let Ok(auth) = serde_json::from_str::<Auth>(payload) else {
            return Err(self.malformed("CONNECT: expected an object"));
        };
        match Box::pin(self.sign_in(&auth)).await {
            Ok(()) => {
                self.refused = 0;
                Ok(())
            }
            Err(Refused { error, message, retry_after }) => {
                let mut body = json!({ "message": message, "data": { "error": error } });
                if let Some(seconds) = retry_after {
                    body["data"]["retryAfter"] = seconds.into();
                }
                self.say(packet::connect_error("/", &body.to_string()));
                self.count_refusal()
            }
        }
    }

    fn count_refusal(&mut self) -> Result<(), End> {
        self.refused += 1;
        let max = self.edge.settings().surfaces.wells.refusals_max;
        if self.refused >= max { Err(self.end(POLICY, "refused too often")) } else { Ok(()) }
    }

    async fn sign_in(&mut self, auth: &Auth) -> Result<(), Refused> {
        let identity = self.identify(auth).await?;
        let settings = self.edge.settings();
        let (window, max) = (settings.surfaces.wells.recovery_window, settings.surfaces.wells.recovery_max);
        let recovers = self.guest.recovers && !window.is_zero() && max > 0;
        let (claimed, kept) = match (recovers, auth.pid.as_str(), auth.offset.as_str()) {
            (false, _, _) => (false, None),
            (true, Some(pid), Some(_)) => match self.server.recovery().claim(pid, &identity.subject).await {
                Some(kept) => (true, Some(kept)),
                None => (false, Some(self.begin(&identity))),
            },
            (true, _, _) => (false, Some(self.begin(&identity))),
        };
        let recovery = self.server.recovery().clone();
        // If what follows fails, the client may come back once more.
        let mut keeper = Keeper { recovery, kept: kept.clone(), window, max, may: claimed };
        let sid = kept.as_ref().map_or_else(secret, |kept| kept.sid.clone());
        let first = packet::connected(&sid, kept.as_ref().map(|kept| kept.pid.as_str()));
        let dialect = Sio::new(first, recovers, settings.limits.cursor_bytes, &identity.subject);
        let places = self.edge.guards.open_user(&identity.subject).map_err(|too_much| {
            record::connection_refused("per_client");
            Problem::too_much(too_much)
        })?;
        let caller = Caller { identity, ip: self.guest.ip, peer: self.guest.peer, kill: self.kill.clone() };
        let wish = Wish { patterns: Vec::new(), start: StartAt::Live, contract: None, own: None };
        let Started { connection, member, .. } =
            stream::start_in(&self.edge, &caller, places, &wish, dialect, &record::SOCKETIO).await?;
        keeper.may = true;
        // Refused once, it is not asked for again; a client that leaves and comes back shows its token anew.
        self.guest.shown = Shown::Nothing;
        self.state = State::Live(Live::new(connection, member, keeper));
        if !std::mem::replace(&mut self.known, true) {
            // Signing in is no message of the program's own.
            self.rate = MessageRate::default();
        }
        self.set_signed_in(true);
        if let (true, Some(kept)) = (claimed, kept) {
            self.resume(&kept, auth.offset.as_str().unwrap_or_default()).await;
        }
        Ok(())
    }

    fn begin(&self, identity: &Identity) -> Arc<Kept> {
        self.server.recovery().begin(secret(), identity.subject.clone())
    }

    async fn identify(&mut self, auth: &Auth) -> Result<Arc<Identity>, Refused> {
        let own = auth.token.as_str().filter(|token| !token.is_empty());
        let shown = match (own, &self.guest.shown) {
            (Some(token), _) => token.strip_prefix("Bearer ").unwrap_or(token),
            (None, Shown::Token(token)) => token,
            (None, Shown::Nothing | Shown::Wrong(_)) => "",
        };
        let identity = if shown.is_empty() { None } else { self.edge.auth.identify(shown).await };
        identity.ok_or_else(|| {
            let reason = match &self.guest.shown {
                Shown::Wrong(kind) if own.is_none() => *kind,
                _ => "unauthorized",
            };
            record::request_refused(reason);
            self.edge.audit.note(Entry {
                event: "refused",
                client_ip: self.guest.ip.map(|ip| ip.to_string()),
                method: Some("CONNECT".to_owned()),
                path: Some("/socket.io/".to_owned()),
                status: Some(401),
                reason: Some(reason.to_owned()),
                ..Entry::default()
            });
            let message = "a valid key or token is needed: auth.token".to_owned();
            Refused { error: "AuthenticationError", message, retry_after: None }
        })
    }

    /// Goes on where the client stood when its connection broke off: at its offset in the wells that this names, and at the beginning in those that it followed later.
    async fn resume(&mut self, kept: &Arc<Kept>, offset: &str) {
        let State::Live(live) = &mut self.state else { return };
        let session = live.connection.handler();
        let cursor = Cursor::parse(offset).ok().filter(|cursor| matches!(cursor, Cursor::Rooms(_)));
        let identity = session.profile().identity();
        let rights = &identity.rights;
        let (mut places, mut missed, mut unheard) = (Vec::new(), Vec::new(), Vec::new());
        let follows = std::mem::take(&mut *kept.follows.lock());
        for (room, begun) in follows {
            if !rights.may_read(&room) {
                let message = format!("the credential does not allow to read {room} any more");
                session.dialect().error("AuthorizationError", &message);
                continue;
            }
            let stood = cursor.as_ref().and_then(|cursor| cursor.of(&room, false));
            let place = (room.clone(), stood.unwrap_or(begun));
            // Each by itself: one that takes no readers now is not in the way of the others.
            let start = StartAt::After(Cursor::Rooms(vec![place.clone()]));
            match session.join(&[Pattern::Room(room.clone())], &start, None).await {
                Ok(found) => missed.push(found),
                Err(error) => {
                    session.dialect().error("ConnectionError", &format!("{room} is not followed any more: {error}"));
                    continue;
                }
            }
            places.push(place);
            if stood.is_none() {
                unheard.push(room);
            }
        }
        *kept.follows.lock() = places;
        missed.into_iter().for_each(|missed| session.tell_begins(missed));
        for room in unheard {
            self.tell_subscribed(&room, None);
        }
    }
}
