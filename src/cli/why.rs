//! `tidegate why`: says in words what one connection waits for, from what the daemon tells of it and of the rooms it reads.
//!
//! What is asked is in [`run`]; what is said, in [`explain`], which knows no daemon.

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::Value;
use tokio::time::sleep;

use super::client::{Server, encode};
use super::top::view::{byte_size, number, rooms_of, seconds, shed, shorten, span, text, waiting};
use super::top::{answered, json};
use crate::clock;
use crate::event::{Cursor, RoomName};

/// So many rooms are asked for, and so many of those in which it is late are named.
const ASKED_MAX: usize = 64;
const NAMED_MAX: usize = 10;
/// Between the two looks at the connection: long enough to see whether it moves.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidegate why 7\nThe numbers are those of tidegate top, and of the notice welcome.")]
pub(super) struct WhyArguments {
    /// The connection's number
    id: String,
    #[command(flatten)]
    server: Server,
}

pub(super) async fn run(arguments: WhyArguments) -> anyhow::Result<()> {
    let WhyArguments { id, server } = arguments;
    let before = connection(&server, &id).await?;
    let names = followed(&before);
    let mut rooms = Vec::new();
    for name in names.iter().take(ASKED_MAX) {
        match json(&server, &format!("/v1/rooms/{}", encode(name))).await {
            Ok(room) => rooms.push((name.clone(), room)),
            // Gone, or not to be read with this credential: it is told that something is missing.
            Err(error) if answered(&error, 403) || answered(&error, 404) => {}
            Err(error) => return Err(error),
        }
    }
    sleep(PAUSE).await;
    // After the rooms: what is published in between does not make it look late.
    let now = connection(&server, &id).await?;
    let mut out = std::io::stdout().lock();
    for sentence in explain(&before, &now, &rooms, names.len() - rooms.len(), clock::now_ms()) {
        writeln!(out, "{sentence}")?;
    }
    Ok(())
}

async fn connection(server: &Server, id: &str) -> anyhow::Result<Value> {
    match json(server, &format!("/v1/connections/{}", encode(id))).await {
        Err(error) if answered(&error, 404) => {
            Err(anyhow!("there is no connection {id}, or not any more; tidegate top lists those there are"))
        }
        Err(error) => Err(error.context(format!("asking for connection {id}, for which the role admin is needed"))),
        Ok(connection) => Ok(connection),
    }
}

/// The rooms it reads: those its cursor names, and those it asked for by name.
fn followed(connection: &Value) -> Vec<String> {
    let mut names: Vec<String> = match cursor(connection) {
        Some(Cursor::Rooms(rooms)) => rooms.iter().map(|(room, _)| room.as_str().to_owned()).collect(),
        Some(Cursor::Seq(_)) | None => Vec::new(),
    };
    let named = rooms_of(connection).into_iter().filter(|room| RoomName::parse(room).is_ok());
    names.extend(named);
    names.sort_unstable();
    names.dedup();
    names
}

fn cursor(connection: &Value) -> Option<Cursor> {
    connection["cursor"].as_str().and_then(|cursor| Cursor::parse(cursor).ok())
}

/// Where it stands in one of its rooms.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    room: String,
    seq: u64,
    head: u64,
    /// Events after its cursor that are still held.
    late: u64,
    /// Whether there were others.
    gone: bool,
    /// When the newest event came, in milliseconds since 1970.
    newest_ms: Option<u64>,
}

fn standings(connection: &Value, rooms: &[(String, Value)]) -> Vec<Standing> {
    let Some(cursor) = cursor(connection) else { return Vec::new() };
    let alone = rooms_of(connection).len() == 1;
    let standing = |(name, room): &(String, Value)| {
        let seq = cursor.of(&RoomName::parse(name).ok()?, alone)?;
        let (late, gone) = late(seq, room);
        let newest_ms = moment(&room["last_timestamp"]);
        Some(Standing { room: name.clone(), seq, head: number(room, "/head"), late, gone, newest_ms })
    };
    let mut standings: Vec<Standing> = rooms.iter().filter_map(standing).collect();
    standings.sort_by(|a, b| b.late.cmp(&a.late).then_with(|| a.room.cmp(&b.room)));
    standings
}

/// How many held events lie after `seq`, and whether there were others. Numbers may leap after a crash, so there are never more than are held.
fn late(seq: u64, room: &Value) -> (u64, bool) {
    let (head, held) = (number(room, "/head"), number(room, "/held"));
    match room["first_seq"].as_u64() {
        _ if seq >= head => (0, false),
        // 0 stands before everything: whoever begins there asked for what is held.
        Some(first) if seq.saturating_add(1) < first => (held, seq > 0),
        Some(_) => ((head - seq).min(held.max(1)), false),
        None => (0, true),
    }
}

/// The whole answer, a sentence or a few a line. `unknown`: rooms of which nothing is known. `clock_ms`: the time, where the daemon does not say it.
fn explain(before: &Value, now: &Value, rooms: &[(String, Value)], unknown: usize, clock_ms: u64) -> Vec<String> {
    // The daemon's own time, so that it does not matter how this machine's clock goes.
    let opened = moment(&now["opened_at"]);
    let time =
        opened.map_or(clock_ms, |opened| opened.saturating_add(seconds(&now["age_seconds"]).saturating_mul(1000)));
    let standings = standings(now, rooms);
    let mut said = vec![who(now), verdict(before, now, &standings, time)];
    said.extend(mailbox(now));
    said.extend(fallen_behind(now));
    said.extend(account(now));
    said.extend(given_up(now));
    said.extend(positions(now, &standings, unknown));
    said.extend(latency(now));
    said.push(end(now, time));
    said
}

fn who(now: &Value) -> String {
    let rooms = rooms_of(now);
    let client = if now["client_ip"].is_null() { &now["peer"] } else { &now["client_ip"] };
    let asks = if rooms.is_empty() { "nothing".to_owned() } else { shorten(&rooms, 80) };
    format!(
        "Connection {}: {} of {} ({}) from {}, open for {}; asks for {asks}, follows {}.",
        text(&now["id"]),
        text(&now["transport"]),
        text(&now["subject"]),
        text(&now["credential"]),
        text(client),
        span(seconds(&now["age_seconds"])),
        several(number(now, "/following"), "room"),
    )
}

/// What it comes down to.
fn verdict(before: &Value, now: &Value, standings: &[Standing], time: u64) -> String {
    let taken = number(now, "/ledger/delivered").saturating_sub(number(before, "/ledger/delivered"));
    let pace = match taken {
        0 => "nothing went out while this was looked at".to_owned(),
        taken => format!("{} went out while this was looked at", several(taken, "event")),
    };
    if now["answers"].as_bool() == Some(false) {
        let last = moment(&now["last_delivery_at"]).map_or_else(
            || "nothing was ever delivered".to_owned(),
            |last| format!("the last delivery was {} ago", ago(last, time)),
        );
        return format!(
            "Its socket takes nothing: {last}. Its client has stopped reading, or the network between carries nothing; \
             after limits.write_timeout without progress it is disconnected. What is said here of deliveries is from \
             its last answer."
        );
    }
    let (behind, messages) = (number(now, "/mailbox/behind"), waiting(now));
    let late = standings.iter().filter(|standing| standing.late > 0 || standing.gone).count();
    if behind > 0 {
        return format!(
            "It is behind in {} and reads on from the history there; what is published meanwhile reaches it in its \
             turn; {pace}.",
            several(behind, "room")
        );
    }
    if messages > 0 {
        return format!("It has not yet taken what waits in its mailbox; {pace}.");
    }
    if late > 0 {
        return format!(
            "Nothing waits in its mailbox, but its cursor is not at the head everywhere (see below): what lies between \
             is on its way, or was filtered or given up; {pace}."
        );
    }
    if number(now, "/following") == 0 {
        return if rooms_of(now).is_empty() {
            "It follows nothing: it waits until it has subscribed to a room.".to_owned()
        } else {
            "There is no room yet of those it asks for: it waits until one comes to be.".to_owned()
        };
    }
    if standings.is_empty() {
        return format!("Nothing waits for it that one could see: it waits for the next event; {pace}.");
    }
    let newest = standings.iter().filter_map(|standing| Some((standing.newest_ms?, &standing.room))).max();
    let newest = newest.map_or_else(String::new, |(newest, room)| {
        format!("; the newest one came {} ago, in {room}", ago(newest, time))
    });
    format!("It is up to date and waits for nothing but the next event{newest}.")
}

fn mailbox(now: &Value) -> Option<String> {
    let messages = waiting(now);
    if messages == 0 {
        return None;
    }
    let lanes = ["critical", "high", "normal", "low"].into_iter().filter_map(|lane| {
        let waits = number(now, &format!("/mailbox/lanes/{lane}"));
        (waits > 0).then(|| format!("{waits} {lane}"))
    });
    let lanes: Vec<String> = lanes.collect();
    let lanes = if lanes.is_empty() { String::new() } else { format!(": {}", lanes.join(", ")) };
    let bytes = now.pointer("/mailbox/bytes").and_then(Value::as_f64).unwrap_or(0.0);
    Some(format!("Its mailbox holds {}, {}{lanes}.", several(messages, "message"), byte_size(bytes)))
}

fn fallen_behind(now: &Value) -> Option<String> {
    match number(now, "/catch_ups") {
        0 => None,
        times => Some(format!("It has fallen behind {} since it was opened.", several(times, "time"))),
    }
}

/// What became of everything that was due to it.
fn account(now: &Value) -> Option<String> {
    let due = match number(now, "/ledger/due") {
        0 => return now["ledger"].is_object().then(|| "No event was due to it yet.".to_owned()),
        due => due,
    };
    let parts = [
        ("delivered", "were delivered"),
        ("filtered", "were filtered"),
        ("conflated", "gave way to a newer one of their key"),
        ("shed", "were given up"),
        ("missed", "were not held any more"),
        ("waiting", "wait"),
    ];
    let parts = parts.into_iter().filter_map(|(field, words)| {
        let count = number(now, &format!("/ledger/{field}"));
        (count > 0).then(|| format!("{count} {words}"))
    });
    let parts: Vec<String> = parts.collect();
    let parts = if parts.is_empty() { "none was delivered".to_owned() } else { parts.join(", ") };
    Some(format!("Of {} due to it {parts}.", several(due, "event")))
}

fn given_up(now: &Value) -> Option<String> {
    let all = shed(now);
    if all == 0 {
        return None;
    }
    let reasons = now["shed"].as_object().into_iter().flatten().filter_map(|(reason, count)| {
        let count = count.as_u64().filter(|count| *count > 0)?;
        let why = match reason.as_str() {
            "displaced" => " (the mailbox was full, newer or more urgent events took their place)",
            "rejected" => " (the mailbox was full, and the room's on_full is reject)",
            "timed_out" => " (the mailbox was full, and the room had waited as long as it may)",
            _ => "",
        };
        Some(format!("{count} {}{why}", text(&Value::from(reason.as_str()))))
    });
    let reasons: Vec<String> = reasons.collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    Some(format!("Given up for it, and told to it: {}{reasons}.", several(all, "event")))
}

fn positions(now: &Value, standings: &[Standing], unknown: usize) -> Vec<String> {
    let mut said = Vec::new();
    let late: Vec<&Standing> = standings.iter().filter(|standing| standing.late > 0 || standing.gone).collect();
    for Standing { room, seq, head, late, gone, .. } in late.iter().take(NAMED_MAX) {
        let gone = if *gone { "; older ones it has not had are not held any more" } else { "" };
        said.push(format!("In {room} it is {} behind the head (at {seq} of {head}){gone}.", several(*late, "event")));
    }
    if let Some(rest) = late.get(NAMED_MAX..).filter(|rest| !rest.is_empty()) {
        let events: u64 = rest.iter().map(|standing| standing.late).sum();
        let rooms = rest.len();
        said.push(format!(
            "In {rooms} more of its rooms it is behind the head, by {} in all.",
            several(events, "event")
        ));
    }
    let level = standings.len() - late.len();
    match (level, late.len()) {
        (0, _) => {}
        (1, 0) => said.push("It stands at the head of its room.".to_owned()),
        (level, 0) => said.push(format!("It stands at the head of all {level} rooms looked at.")),
        (1, _) => said.push("In one other it stands at the head.".to_owned()),
        (level, _) => said.push(format!("In {level} others it stands at the head.")),
    }
    if standings.is_empty() && number(now, "/following") > 0 {
        said.push("It has no cursor by which one could say where it stands in its rooms.".to_owned());
    }
    if unknown > 0 {
        said.push(format!(
            "Not looked at: {unknown} of its rooms (gone, not to be read with this token, or too many)."
        ));
    }
    said
}

fn latency(now: &Value) -> Option<String> {
    let last = now.pointer("/latency_ms/last").and_then(Value::as_f64)?;
    let most = now.pointer("/latency_ms/max").and_then(Value::as_f64);
    let most = most.map_or_else(String::new, |most| format!(", the slowest {most} ms"));
    Some(format!("Of the events that were measured the last was handed to the socket after {last} ms{most}."))
}

fn end(now: &Value, time: u64) -> String {
    match moment(&now["expires_at"]) {
        None => "Its credential has no end.".to_owned(),
        Some(end) if end <= time => "Its token has ended: it is about to be closed.".to_owned(),
        Some(end) => {
            let left = span((end - time) / 1000);
            format!("Its token ends in {left}, at {}; without a new one it is closed then.", clock::rfc3339(end))
        }
    }
}

/// A time in milliseconds since 1970, from RFC 3339 or a number of seconds or milliseconds.
fn moment(value: &Value) -> Option<u64> {
    // As seconds, this is the year 5138.
    const SECONDS_MAX: u64 = 100_000_000_000;
    match value {
        Value::String(text) => clock::parse_rfc3339(text),
        other => other.as_u64().map(|number| if number < SECONDS_MAX { number * 1000 } else { number }),
    }
}

fn ago(then: u64, time: u64) -> String {
    span(time.saturating_sub(then) / 1000)
}

fn several(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    /// A connection to which nothing is wrong, looked at 65 s after it was opened.
    fn a_connection() -> Value {
        json!({
            "id": "7", "transport": "websocket", "peer": "127.0.0.1:5000", "client_ip": "10.0.0.1",
            "subject": "alice", "credential": "token",
            "opened_at": "2026-01-01T00:00:00.000Z", "age_seconds": 65,
            "rooms": ["well:*"], "following": 2, "cursor": "well:1=100,well:2=50", "answers": true,
            "mailbox": {"messages": 0, "bytes": 0, "lanes": {"critical": 0, "high": 0, "normal": 0, "low": 0},
                        "behind": 0},
            "ledger": {"due": 10, "delivered": 10, "filtered": 0, "conflated": 0, "shed": 0, "missed": 0, "waiting": 0},
            "shed": {}, "catch_ups": 0, "last_delivery_at": "2026-01-01T00:01:00.000Z", "latency_ms": null,
            "expires_at": null,
        })
    }

    fn a_room(first: u64, head: u64, held: u64) -> Value {
        json!({"head": head, "first_seq": first, "held": held, "last_timestamp": "2026-01-01T00:00:53.000Z"})
    }

    fn level() -> Vec<(String, Value)> {
        vec![("well:1".to_owned(), a_room(91, 100, 10)), ("well:2".to_owned(), a_room(1, 50, 50))]
    }

    fn said(now: &Value, rooms: &[(String, Value)]) -> Vec<String> {
        explain(&a_connection(), now, rooms, 0, 0)
    }

    #[test]
    fn a_connection_with_nothing_to_wait_for_is_up_to_date() {
        let said = said(&a_connection(), &level());
        let expected = [
            "Connection 7: websocket of alice (token) from 10.0.0.1, open for 1m05s; asks for well:*, follows 2 rooms.",
            "It is up to date and waits for nothing but the next event; the newest one came 12s ago, in well:2.",
            "Of 10 events due to it 10 were delivered.",
            "It stands at the head of all 2 rooms looked at.",
            "Its credential has no end.",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_stalled_socket_is_named_before_what_follows_from_it() {
        let mut now = a_connection();
        now["answers"] = json!(false);
        now["mailbox"] = json!({"messages": 120, "bytes": 2048, "lanes": {"critical": 2, "normal": 118}, "behind": 1});
        let sentences = said(&now, &level());
        assert!(
            sentences[1].starts_with("Its socket takes nothing: the last delivery was 5s ago."),
            "{}",
            sentences[1]
        );
        assert_eq!(sentences[2], "Its mailbox holds 120 messages, 2.0 KiB: 2 critical, 118 normal.");
        now["last_delivery_at"] = Value::Null;
        assert!(said(&now, &level())[1].contains("nothing was ever delivered"));
    }

    #[test]
    fn a_reader_that_is_behind_is_told_how_far_and_whether_it_moves() {
        let mut now = a_connection();
        now["mailbox"]["behind"] = json!(1);
        now["catch_ups"] = json!(3);
        now["ledger"]["delivered"] = json!(22);
        let mut rooms = level();
        rooms[0].1 = a_room(91, 130, 40);
        let said = said(&now, &rooms);
        assert!(said[1].starts_with("It is behind in 1 room and reads on from the history"), "{}", said[1]);
        assert!(said[1].ends_with("12 events went out while this was looked at."), "{}", said[1]);
        assert_eq!(said[2], "It has fallen behind 3 times since it was opened.");
        assert!(said.contains(&"In well:1 it is 30 events behind the head (at 100 of 130).".to_owned()), "{said:?}");
        assert!(said.contains(&"In one other it stands at the head.".to_owned()), "{said:?}");
    }

    #[test]
    fn a_mailbox_that_is_not_emptied_is_said_to_stand_still() {
        let mut now = a_connection();
        now["mailbox"]["messages"] = json!(1);
        let said = said(&now, &level());
        assert_eq!(
            said[1],
            "It has not yet taken what waits in its mailbox; nothing went out while this was looked at."
        );
        assert_eq!(said[2], "Its mailbox holds 1 message, 0 B.");
    }

    #[test]
    fn what_was_given_up_is_said_with_its_reasons() {
        let mut now = a_connection();
        now["ledger"] = json!({"due": 20, "delivered": 12, "conflated": 3, "shed": 5});
        now["shed"] = json!({"displaced": 4, "rejected": 0, "something_new": 1});
        let said = said(&now, &level());
        assert_eq!(
            said[2],
            "Of 20 events due to it 12 were delivered, 3 gave way to a newer one of their key, 5 were given up."
        );
        assert_eq!(
            said[3],
            "Given up for it, and told to it: 5 events: 4 displaced (the mailbox was full, newer or more urgent events \
             took their place), 1 something_new."
        );
    }

    #[test]
    fn events_that_are_not_held_any_more_are_not_counted_as_to_come() {
        assert_eq!(late(100, &a_room(91, 100, 10)), (0, false));
        assert_eq!(late(90, &a_room(91, 100, 10)), (10, false));
        assert_eq!(late(50, &a_room(91, 100, 10)), (10, true));
        assert_eq!(late(0, &a_room(91, 100, 10)), (10, false));
        // The numbers leapt after a crash.
        assert_eq!(late(95, &a_room(91, 1_767_225_600_000_000, 12)), (12, false));
        assert_eq!(late(5, &json!({"head": 9, "first_seq": null, "held": 0})), (0, true));
        assert_eq!(late(u64::MAX, &a_room(91, 100, 10)), (0, false));
    }

    #[test]
    fn the_end_of_a_token_is_told_by_the_daemons_clock() {
        let mut now = a_connection();
        for expires in [json!("2026-01-01T00:46:05Z"), json!(1_767_228_365), json!(1_767_228_365_000_u64)] {
            now["expires_at"] = expires;
            let said = said(&now, &level());
            let expected =
                "Its token ends in 45m00s, at 2026-01-01T00:46:05.000Z; without a new one it is closed then.";
            assert_eq!(said.last().unwrap(), expected);
        }
        now["expires_at"] = json!("2026-01-01T00:01:00Z");
        assert_eq!(said(&now, &level()).last().unwrap(), "Its token has ended: it is about to be closed.");
    }

    #[test]
    fn who_follows_nothing_waits_for_a_room() {
        let mut now = a_connection();
        now["following"] = json!(0);
        now["cursor"] = Value::Null;
        assert!(said(&now, &[])[1].starts_with("There is no room yet"));
        now["rooms"] = json!([]);
        assert!(said(&now, &[])[1].starts_with("It follows nothing"));
    }

    #[test]
    fn what_cannot_be_known_is_said_to_be_unknown() {
        let mut now = a_connection();
        now["cursor"] = Value::Null;
        now["latency_ms"] = json!({"last": 1.5, "max": 20.25});
        let said = explain(&now, &now, &level(), 3, 0);
        assert!(said.iter().any(|line| line.starts_with("It has no cursor")), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("Not looked at: 3 of its rooms")), "{said:?}");
        let latency =
            "Of the events that were measured the last was handed to the socket after 1.5 ms, the slowest 20.25 ms.";
        assert!(said.contains(&latency.to_owned()), "{said:?}");
        // An answer without any of the fields makes poor sentences, but no failure.
        assert!(!explain(&json!({}), &json!({}), &[], 0, 0).is_empty());
    }

    #[test]
    fn only_the_rooms_where_it_is_latest_are_named() {
        let mut now = a_connection();
        let names: Vec<String> = (1..=15).map(|n| format!("well:{n:02}")).collect();
        now["cursor"] = json!(names.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join(","));
        let rooms: Vec<(String, Value)> =
            names.iter().zip(2_u64..).map(|(n, h)| (n.clone(), a_room(1, h, h))).collect();
        let said = said(&now, &rooms);
        let named: Vec<&String> = said.iter().filter(|line| line.starts_with("In well:")).collect();
        assert_eq!(named.len(), NAMED_MAX);
        assert_eq!(named[0], "In well:15 it is 15 events behind the head (at 1 of 16).");
        assert!(
            said.contains(&"In 5 more of its rooms it is behind the head, by 15 events in all.".to_owned()),
            "{said:?}"
        );
    }

    #[test]
    fn the_rooms_asked_for_are_those_of_the_cursor_and_those_named() {
        let mut now = a_connection();
        now["rooms"] = json!(["well:*", "host:cpu", "well:1"]);
        assert_eq!(followed(&now), ["host:cpu", "well:1", "well:2"]);
        let alone = json!({"rooms": ["dashboard"], "cursor": "17"});
        assert_eq!(followed(&alone), ["dashboard"]);
        let standings = standings(&alone, &[("dashboard".to_owned(), a_room(1, 20, 20))]);
        assert_eq!((standings[0].seq, standings[0].late), (17, 3));
    }
}
