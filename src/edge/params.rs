//! Query parameters, strictly: an unknown or repeated one is an error, so that a misspelt one is never ignored.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::HeaderMap;

use super::problem::Problem;
use crate::clock;
use crate::engine::rooms::StartAt;
use crate::event::Cursor;
use crate::settings::value::parse_time;

/// Where a credential may stand; allowed everywhere.
const CREDENTIALS: [&str; 2] = ["access_token", "token"];

/// A request's query parameters.
pub(super) struct Params<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Params<'q> {
    /// Takes a query apart; only `allowed` names may stand in it.
    pub(super) fn parse(query: Option<&'q str>, allowed: &[&str]) -> Result<Self, Problem> {
        let mut found: Vec<(Cow<'q, str>, Cow<'q, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if CREDENTIALS.contains(&&*name) {
                continue;
            }
            let shown: String = name.chars().take(60).collect();
            if !allowed.contains(&&*name) {
                let all = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                return Err(Problem::parameter(&shown, format!("there is no such parameter here; there are: {all}")));
            }
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Problem::parameter(&shown, "given more than once"));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// Takes of a query what has one of these names, the first of each: for clients that were made for another server, and say things of their own.
    pub(super) fn pick(query: Option<&'q str>, names: &[&str]) -> Self {
        let mut found: Vec<(Cow<'q, str>, Cow<'q, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if names.contains(&&*name) && !found.iter().any(|(other, _)| *other == name) {
                found.push((name, value));
            }
        }
        Self(found)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// A whole number in this range.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.map(Some).ok_or_else(|| Problem::parameter(name, format!("expected a whole number from {min} to {max}")))
    }

    /// A duration up to `max`.
    pub(super) fn duration(&self, name: &str, max: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let time = parse_time(text).filter(|time| *time <= max);
        time.map(Some)
            .ok_or_else(|| Problem::parameter(name, format!("expected a duration such as 25s, at most {max:?}")))
    }

    /// Where a stream is to begin: by its `Last-Event-ID` header, else as [`Self::start`] has it.
    pub(super) fn start_of(&self, headers: &HeaderMap) -> Result<Option<StartAt>, Problem> {
        let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
        match header.filter(|cursor| !cursor.is_empty()) {
            Some(cursor) => parse_cursor("Last-Event-ID", cursor).map(Some),
            None => self.start(),
        }
    }

    /// Where to begin: one of `after`, `since`, `tail`, or `last_event_id` in place of `after`.
    pub(super) fn start(&self) -> Result<Option<StartAt>, Problem> {
        let given: Vec<&str> =
            ["after", "last_event_id", "since", "tail"].into_iter().filter(|name| self.get(name).is_some()).collect();
        if let [_, second, ..] = given[..] {
            return Err(Problem::parameter(second, format!("at most one of {} says where to begin", given.join(", "))));
        }
        let Some(name) = given.first() else { return Ok(None) };
        let value = self.get(name).unwrap_or_default();
        match *name {
            "since" => {
                parse_since(value).map(|ms| Some(StartAt::Since(ms))).map_err(|why| Problem::parameter(name, why))
            }
            "tail" => Ok(self.number("tail", 0, 1_000_000)?.map(StartAt::Tail)),
            _ if value.is_empty() => Ok(None),
            _ => parse_cursor(name, value).map(Some),
        }
    }
}

pub(super) fn parse_cursor(name: &str, text: &str) -> Result<StartAt, Problem> {
    Cursor::parse(text).map(StartAt::After).map_err(|error| Problem::parameter(name, error))
}

/// A time as RFC 3339, or an age such as `-5m`; milliseconds since 1970.
pub(super) fn parse_since(text: &str) -> Result<u64, &'static str> {
    // A plus in a query is a space, and a time zone has one.
    let text = text.replace(' ', "+");
    let age = text.strip_prefix('-').and_then(parse_time);
    let aged = age.map(|age| clock::now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
    aged.or_else(|| clock::parse_rfc3339(&text))
        .ok_or("expected a time such as 2026-11-20T06:10:00Z, or an age such as -5m")
}
