//! `tidegate publish`: one event from arguments, or NDJSON from standard input, sent on in batches as it comes.

use std::io::Write;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use http_body_util::BodyExt;
use hyper::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::client::{Server, encode, request};

/// Lines are sent together up to so many, or so many bytes.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate publish well:7 --kind sample --data '{\"pressure\":12.5}'\n  tidegate publish well:7 --stdin < events.ndjson"
)]
pub(super) struct PublishArguments {
    /// The room
    room: String,
    /// What kind of thing happened; "event" if not given
    #[arg(long, conflicts_with = "stdin")]
    kind: Option<String>,
    /// The event's data, JSON
    #[arg(long, required_unless_present = "stdin", conflicts_with = "stdin")]
    data: Option<String>,
    /// critical, high, normal or low
    #[arg(long, conflicts_with = "stdin")]
    priority: Option<String>,
    /// What the event is about
    #[arg(long, conflicts_with = "stdin")]
    key: Option<String>,
    /// An idempotency key: the same one is not published twice
    #[arg(long, conflicts_with = "stdin")]
    id: Option<String>,
    /// Read events from standard input, one JSON object a line
    #[arg(long)]
    stdin: bool,
    /// What the answer means: memory, logged or synced
    #[arg(long)]
    ack: Option<String>,
    #[command(flatten)]
    server: Server,
}

#[derive(Serialize)]
struct Event<'a> {
    kind: &'a str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

pub(super) async fn run(arguments: PublishArguments) -> anyhow::Result<()> {
    if arguments.stdin {
        return lines(&arguments).await;
    }
    // As it was written: digits and the order of fields are the publisher's.
    let data: Box<RawValue> = serde_json::from_str(arguments.data.as_deref().unwrap_or("null"))
        .context("--data is not JSON; a text needs quotes of its own: --data '\"hello\"'")?;
    let event = Event {
        kind: arguments.kind.as_deref().unwrap_or("event"),
        data: &data,
        priority: arguments.priority.as_deref(),
        key: arguments.key.as_deref(),
        id: arguments.id.as_deref(),
    };
    let receipt = send(&arguments, "application/json", serde_json::to_vec(&event)?.into()).await?;
    writeln!(std::io::stdout(), "{}", receipt["last_seq"])?;
    Ok(())
}

async fn lines(arguments: &PublishArguments) -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let (mut batch, mut count, mut published, mut last) = (BytesMut::new(), 0, 0, Value::Null);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line).await?;
        if !line.trim_ascii().is_empty() {
            batch.extend_from_slice(line.trim_ascii());
            batch.extend_from_slice(b"\n");
            count += 1;
        }
        // What has come is sent when nothing more waits: a live pipe is not held up.
        let due = count >= BATCH_LINES || batch.len() >= BATCH_BYTES || input.buffer().is_empty();
        if count > 0 && (due || read == 0) {
            let first = published + 1;
            let receipt = send(arguments, "application/x-ndjson", batch.split().freeze()).await;
            let receipt = receipt.with_context(|| {
                format!("lines {first} to {} were not published (items count from line {first})", published + count)
            })?;
            published += count;
            count = 0;
            last = receipt["last_seq"].clone();
        }
        if read == 0 {
            break;
        }
    }
    if published == 0 {
        bail!("standard input held no event");
    }
    writeln!(std::io::stdout(), "{last}")?;
    Ok(())
}

async fn send(arguments: &PublishArguments, content_type: &str, body: Bytes) -> anyhow::Result<Value> {
    let ack = arguments.ack.as_ref().map_or(String::new(), |ack| format!("?ack={}", encode(ack)));
    let path = format!("/v1/rooms/{}/events{ack}", encode(&arguments.room));
    let request = request("POST", &path).header(CONTENT_TYPE, content_type);
    let response =
        arguments.server.send(request, body).await.with_context(|| format!("publishing to {}", arguments.room))?;
    let body = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&body).context("the daemon's answer is not JSON")
}
