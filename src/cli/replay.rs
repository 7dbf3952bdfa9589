//! `tidegate replay`: sends what a daemon's rooms hold through a pipeline that runs here, and prints what comes out. Nothing is published; the daemon is only read from.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Server, encode, request};
use crate::clock;
use crate::event::{Pattern, RoomName, parse_priority};
use crate::pipelines::machine::inputs;
use crate::pipelines::record::Record;
use crate::pipelines::{Definition, Machine, Output};

/// Events asked for at once.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "The clock goes by the events' timestamps. Examples:\n  tidegate replay config/pipelines/host_alarms.toml --since 1h\n  tidegate replay changed.toml --since 1h --compare config/pipelines/host_alarms.toml\n  tidegate replay changed.toml --events recorded.ndjson"
)]
pub(super) struct ReplayArguments {
    /// The pipeline's file
    pipeline: PathBuf,
    /// Begin at a time, or so long ago (1h); with everything that is held if not given
    #[arg(long, allow_hyphen_values = true)]
    since: Option<String>,
    /// End with this time (RFC 3339)
    #[arg(long)]
    until: Option<String>,
    /// Read events from a file instead, one JSON object a line, as `tidegate tail --json` prints them
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Another pipeline, such as the one that runs now: print only what comes out otherwise (- by the other one, + by this one)
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Also print what cannot be worked on
    #[arg(long)]
    dead_letters: bool,
    #[command(flatten)]
    server: Server,
}

/// An event as it is stored.
#[derive(Debug, Deserialize)]
struct Stored {
    room: String,
    seq: u64,
    kind: String,
    priority: String,
    timestamp: String,
    #[serde(default)]
    key: Option<String>,
    data: Box<RawValue>,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    cursor: String,
    more: bool,
}

pub(super) async fn run(arguments: ReplayArguments) -> anyhow::Result<()> {
    let own = read(&arguments.pipeline)?;
    let other = arguments.compare.as_deref().map(read).transpose()?;
    let mut wanted = inputs(&own);
    wanted.extend(other.iter().flat_map(inputs));
    let mut events = match &arguments.events {
        Some(file) => from_file(file, &wanted)?,
        None => from_daemon(&arguments, &wanted).await?,
    };
    if let Some(until) = &arguments.until {
        let until_ms = clock::parse_rfc3339(until).with_context(|| format!("--until {until}: expected a time"))?;
        events.retain(|(at_ms, _)| *at_ms <= until_ms);
    }
    // As they happened, over all rooms; in each room by its numbers.
    events.sort_by(|(one_ms, one), (other_ms, other)| {
        (one_ms, &one.room, one.seq).cmp(&(other_ms, &other.room, other.seq))
    });
    let count = events.len();
    let dead_letters = arguments.dead_letters;
    let mut out = std::io::stdout().lock();
    match other {
        None => {
            let lines = through(own, &events, dead_letters)?;
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            eprintln_count(count, lines.len());
        }
        Some(other) => {
            let (before, now) = (through(other, &events, dead_letters)?, through(own, &events, dead_letters)?);
            let mut same = 0;
            for line in differences(&before, &now) {
                match line {
                    Difference::Same => same += 1,
                    Difference::Gone(line) => writeln!(out, "- {line}")?,
                    Difference::New(line) => writeln!(out, "+ {line}")?,
                }
            }
            let _ = writeln!(std::io::stderr(), "{count} events in, {same} come out as before");
        }
    }
    Ok(())
}

fn eprintln_count(events: usize, outputs: usize) {
    // Who does not want to know has closed it.
    let _ = writeln!(std::io::stderr(), "{events} events in, {outputs} out");
}

fn read(file: &Path) -> anyhow::Result<Definition> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Definition::read(&name, &file.display().to_string(), &text, file.parent())
        .map_err(|faults| anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

fn stored(value: &Value) -> anyhow::Result<Option<(u64, Stored)>> {
    if value["type"] != "event" && !value["type"].is_null() {
        // A change of a room's state, or a notice.
        return Ok(None);
    }
    let stored: Stored = serde_json::from_str(&value.to_string())?;
    let at_ms = clock::parse_rfc3339(&stored.timestamp).context("its timestamp is no time")?;
    Ok(Some((at_ms, stored)))
}

fn from_file(file: &Path, wanted: &[Pattern]) -> anyhow::Result<Vec<(u64, Stored)>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut events = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}:{}", file.display(), at + 1);
        let value: Value = serde_json::from_str(line).with_context(place)?;
        let Some((at_ms, event)) = stored(&value).with_context(place)? else { continue };
        let room = RoomName::parse(&event.room).with_context(place)?;
        if wanted.iter().any(|pattern| pattern.matches(&room)) {
            events.push((at_ms, event));
        }
    }
    Ok(events)
}

async fn from_daemon(arguments: &ReplayArguments, wanted: &[Pattern]) -> anyhow::Result<Vec<(u64, Stored)>> {
    let mut rooms = Vec::new();
    for pattern in wanted {
        let path = format!("/v1/rooms?limit=10000&pattern={}", encode(&pattern.to_string()));
        let body = get(&arguments.server, &path).await?;
        let listed: Value = serde_json::from_slice(&body)?;
        for room in listed["rooms"].as_array().into_iter().flatten().filter_map(|room| room["room"].as_str()) {
            if !rooms.iter().any(|known| known == room) {
                rooms.push(room.to_owned());
            }
        }
    }
    if rooms.is_empty() {
        bail!("the daemon has no room that this pipeline works on");
    }
    let since = arguments.since.as_ref().map(|since| {
        let age = since.starts_with(|c: char| c.is_ascii_digit()) && !since.contains('T');
        format!("&since={}", encode(&if age { format!("-{since}") } else { since.clone() }))
    });
    let mut events = Vec::new();
    for room in rooms {
        let mut start = since.clone().unwrap_or_else(|| "&after=0".to_owned());
        loop {
            let path = format!("/v1/rooms/{}/events?limit={PAGE}{start}", encode(&room));
            let page: Page = serde_json::from_slice(&get(&arguments.server, &path).await?)?;
            for value in &page.events {
                events.extend(stored(value)?);
            }
            if !page.more {
                break;
            }
            start = format!("&after={}", page.cursor);
        }
    }
    Ok(events)
}

async fn get(server: &Server, path: &str) -> anyhow::Result<Bytes> {
    let response = server.send(request("GET", path), Bytes::new()).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Sends events through a pipeline; what comes out, a line of JSON each.
fn through(definition: Definition, events: &[(u64, Stored)], dead_letters: bool) -> anyhow::Result<Vec<String>> {
    let (mut machine, mut outputs, mut lines) = (Machine::new(definition), Vec::new(), Vec::new());
    let dead = machine.definition().dead_letter.clone();
    let mut last_ms = 0;
    for (at_ms, event) in events {
        last_ms = *at_ms;
        let room = RoomName::parse(&event.room)?;
        let known =
            machine.definition().from.iter().chain(&machine.definition().beside).any(|pattern| pattern.matches(&room));
        if !known {
            continue;
        }
        let key = event.key.as_deref().map(Into::into);
        let mut record = Record::made(room, &event.kind, key, *at_ms, *at_ms, Value::Null);
        record.seq = event.seq;
        record.priority = parse_priority(&event.priority).unwrap_or_default();
        let json = Bytes::copy_from_slice(event.data.get().as_bytes());
        let record = record.given(json, machine.definition().chain.extractor());
        machine.record(record, &mut outputs);
        write_out(&mut outputs, dead.as_ref().filter(|_| !dead_letters), &mut lines);
        machine.take_refusals();
    }
    // What is due by now, as if nothing more came.
    while let Some(due_ms) = machine.due_ms().filter(|due| *due <= clock::now_ms().max(last_ms)) {
        let before = machine.now_ms();
        machine.clock(due_ms.max(before + 1), &mut outputs);
        write_out(&mut outputs, dead.as_ref().filter(|_| !dead_letters), &mut lines);
        if machine.now_ms() == before {
            break;
        }
    }
    Ok(lines)
}

fn write_out(outputs: &mut Vec<Output>, but: Option<&RoomName>, lines: &mut Vec<String>) {
    for Output { room, event } in outputs.drain(..).filter(|output| but != Some(&output.room)) {
        let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        let line = json!({
            "room": room.as_str(),
            "kind": event.kind.as_str(),
            "key": event.key.as_deref(),
            "priority": event.priority.name(),
            "timestamp": clock::rfc3339(event.timestamp_ms.unwrap_or(0)),
            "data": data,
        });
        lines.push(line.to_string());
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Difference<'l> {
    Same,
    Gone(&'l str),
    New(&'l str),
}

/// How two lists differ, looking ahead for the next line that both have.
fn differences<'l>(before: &'l [String], now: &'l [String]) -> Vec<Difference<'l>> {
    const AHEAD: usize = 1000;
    let (mut at, mut on, mut found) = (0, 0, Vec::new());
    while at < before.len() || on < now.len() {
        match (before.get(at), now.get(on)) {
            (Some(one), Some(other)) if one == other => {
                found.push(Difference::Same);
                (at, on) = (at + 1, on + 1);
            }
            (Some(one), Some(other)) => {
                let gone = before[at..].iter().take(AHEAD).position(|line| line == other);
                let new = now[on..].iter().take(AHEAD).position(|line| line == one);
                if new.is_some_and(|new| gone.is_none_or(|gone| new <= gone)) {
                    found.push(Difference::New(other));
                    on += 1;
                } else {
                    found.push(Difference::Gone(one));
                    at += 1;
                }
            }
            (Some(one), None) => {
                found.push(Difference::Gone(one));
                at += 1;
            }
            (None, Some(other)) => {
                found.push(Difference::New(other));
                on += 1;
            }
            (None, None) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let (before, now) = (lines("abcde"), lines("axcdf"));
        let found: Vec<_> = differences(&before, &now).into_iter().filter(|one| *one != Difference::Same).collect();
        use Difference::{Gone, New};
        assert_eq!(found.len(), 4);
        assert!([Gone("b"), New("x"), Gone("e"), New("f")].iter().all(|one| found.contains(one)), "{found:?}");
    }
}
