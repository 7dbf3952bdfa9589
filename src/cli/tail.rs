//! `tidegate tail`: follows rooms and prints their events; after a break it goes on where it stopped.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use serde_json::Value;

use super::client::{Server, encode, request};
use super::complain;

/// The longest pause between two tries to come back.
const PAUSE_MAX: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// A stream from which nothing comes for so long is taken for dead: four heartbeats by default.
const SILENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidegate tail host:cpu\n  tidegate tail 'well:*' --since 10m --json | jq .data")]
pub(super) struct TailArguments {
    /// Rooms or patterns such as 'well:*'
    #[arg(required = true)]
    rooms: Vec<String>,
    /// Begin after this cursor
    #[arg(long, group = "start")]
    after: Option<String>,
    /// Begin with the newest so many events of each room
    #[arg(long, group = "start")]
    tail: Option<u64>,
    /// Begin at a time, or so long ago (5m)
    #[arg(long, group = "start", allow_hyphen_values = true)]
    since: Option<String>,
    /// End after so many events
    #[arg(long)]
    count: Option<u64>,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) async fn run(arguments: TailArguments) -> anyhow::Result<()> {
    let mut printer = Printer::new(&arguments);
    let mut cursor: Option<String> = None;
    let mut pause = PAUSE_MIN;
    let mut connected = false;
    loop {
        match open(&arguments, cursor.as_deref()).await {
            Ok(mut body) => {
                (connected, pause) = (true, PAUSE_MIN);
                if follow(&mut body, &mut printer, &mut cursor).await? {
                    return Ok(());
                }
                complain(&"the stream broke off; coming back");
            }
            // What never worked is a mistake; what broke off comes back.
            Err(error) if !connected || is_refusal(&error) => return Err(error),
            Err(error) => complain(&format!("{error:#}; trying again")),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether trying again would only be refused again.
fn is_refusal(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    [" 400 ", " 401 ", " 403 ", " 404 "].iter().any(|status| text.contains(&format!("answered{status}")))
}

async fn open(arguments: &TailArguments, cursor: Option<&str>) -> anyhow::Result<Incoming> {
    let mut path = format!("/v1/stream?rooms={}", encode(&arguments.rooms.join(",")));
    let start = match (cursor, arguments.after.as_deref(), &arguments.since, arguments.tail) {
        (Some(cursor), ..) | (None, Some(cursor), ..) => format!("&after={}", encode(cursor)),
        (None, None, Some(since), _) => {
            let age = since.starts_with(|c: char| c.is_ascii_digit()) && !since.contains('T');
            format!("&since={}", encode(&if age { format!("-{since}") } else { since.clone() }))
        }
        (None, None, None, Some(tail)) => format!("&tail={tail}"),
        (None, None, None, None) => String::new(),
    };
    path.push_str(&start);
    let request = request("GET", &path).header(ACCEPT, "text/event-stream");
    let response = arguments.server.send(request, Bytes::new()).await;
    let response = response.with_context(|| format!("following {}", arguments.rooms.join(", ")))?;
    Ok(response.into_body())
}

/// Prints what comes; `true` if that is all that was wanted.
async fn follow(body: &mut Incoming, printer: &mut Printer, cursor: &mut Option<String>) -> anyhow::Result<bool> {
    let mut buffer = Vec::new();
    // Heartbeats and comments come all the time; without any the other end is gone, as after a laptop's sleep.
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await {
        let Some(data) = frame.data_ref() else { continue };
        buffer.extend_from_slice(data);
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let message: Vec<u8> = buffer.drain(..end + 2).collect();
            let (mut name, mut id, mut data) = (None, None, None);
            for line in String::from_utf8_lossy(&message).lines() {
                match line.split_once(": ") {
                    Some(("event", value)) => name = Some(value.to_owned()),
                    Some(("id", value)) => id = Some(value.to_owned()),
                    Some(("data", value)) => data = Some(value.to_owned()),
                    _ => {}
                }
            }
            if let Some(data) = data
                && printer.print(name.as_deref(), &data)?
            {
                return Ok(true);
            }
            *cursor = id.or(cursor.take());
        }
    }
    Ok(false)
}

struct Printer {
    json: bool,
    colours: bool,
    left: Option<u64>,
}

impl Printer {
    fn new(arguments: &TailArguments) -> Self {
        let colours =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json: arguments.json, colours, left: arguments.count }
    }

    /// Prints an event, or a notice that matters; `true` if it was the last one wanted.
    fn print(&mut self, name: Option<&str>, data: &str) -> anyhow::Result<bool> {
        match name {
            None => {}
            Some("gap" | "dropped" | "error") => {
                complain(&data);
                return Ok(false);
            }
            Some(_) => return Ok(false),
        }
        if self.left == Some(0) {
            return Ok(true);
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{data}")?;
        } else {
            let event: Value = serde_json::from_str(data).context("the daemon sent an event that is not JSON")?;
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let (time, room, kind, priority) = (text("timestamp"), text("room"), text("kind"), text("priority"));
            let (dim, strong, alarm, plain) = if self.colours {
                ("\x1b[2m", "\x1b[1;36m", priority_colour(&priority), "\x1b[0m")
            } else {
                ("", "", "", "")
            };
            let key = event["key"].as_str().map_or(String::new(), |key| format!(" [{key}]"));
            writeln!(
                out,
                "{dim}{time}{plain} {strong}{room}{plain} {dim}{}{plain} {alarm}{kind}{plain}{key} {}",
                event["seq"], event["data"]
            )?;
        }
        out.flush()?;
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(self.left == Some(0))
    }
}

fn priority_colour(priority: &str) -> &'static str {
    match priority {
        "critical" => "\x1b[1;31m",
        "high" => "\x1b[33m",
        "low" => "\x1b[2m",
        _ => "\x1b[32m",
    }
}
