//! `tidegate publish`: one event from arguments, or NDJSON from standard input, sent on in batches as it comes.

use std::io::Write;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use clap::Args;
use http_body_util::BodyExt;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
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
    /// What kind of thing happened
    #[arg(long, default_value = "event")]
    kind: String,
    /// The event's data, JSON
    #[arg(long, required_unless_present = "stdin", conflicts_with = "stdin")]
    data: Option<String>,
    /// critical, high, normal or low
    #[arg(long)]
    priority: Option<String>,
    /// What the event is about
    #[arg(long)]
    key: Option<String>,
    /// An idempotency key: the same one is not published twice
    #[arg(long)]
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

pub(super) async fn run(arguments: PublishArguments) -> anyhow::Result<()> {
    if arguments.stdin {
        return lines(&arguments).await;
    }
    let data: Value =
        serde_json::from_str(arguments.data.as_deref().unwrap_or("null")).context("--data is not JSON")?;
    let mut event = json!({ "kind": arguments.kind, "data": data });
    for (field, value) in [("priority", &arguments.priority), ("key", &arguments.key), ("id", &arguments.id)] {
        if let Some(value) = value {
            event[field] = value.as_str().into();
        }
    }
    let receipt = send(&arguments, "application/json", event.to_string().into()).await?;
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
