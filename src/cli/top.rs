//! `tidegate top`: what the daemon and its connections do now, drawn again and again; on what is not a terminal, one plain table.
//!
//! Rates are differences of two looks. [`view`] makes lines of looks, [`Screen`] shows them; what asks the daemon is here, for `why`, too.

pub(super) mod view;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::view::{Figures, Line, Look, page};
use super::client::{Server, request};
use crate::settings::value::parse_time;

/// A daemon that has not answered for so long does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many connections are asked for: more than a terminal shows, so that those that move up have a rate.
const LIVE_ROWS: usize = 200;
const PLAIN_ROWS: usize = 1000;

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate top --sort delivered\n  tidegate top --once --interval 5s\nCtrl-C ends it."
)]
pub(super) struct TopArguments {
    /// The time between two looks, over which events a second are counted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Which connections come first
    #[arg(long, value_enum, default_value = "waiting")]
    sort: Sort,
    /// Print one plain table after one interval and end, as where the output is no terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    /// Those with the most events waiting
    Waiting,
    /// Those that are open longest
    Age,
    /// Those that got the most events
    Delivered,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Age => "age",
            Self::Delivered => "delivered",
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).filter(|time| (INTERVAL_MIN..=INTERVAL_MAX).contains(time));
    time.ok_or_else(|| "expected a time from 100ms to 1h, such as 1s".to_owned())
}

pub(super) async fn run(arguments: TopArguments) -> anyhow::Result<()> {
    let address = arguments.server.authority()?;
    if !arguments.once && std::io::stdout().is_terminal() {
        return live(&arguments, &address).await;
    }
    let before = look(&arguments, PLAIN_ROWS).await?;
    sleep(arguments.interval).await;
    let now = look(&arguments, PLAIN_ROWS).await?;
    let mut out = std::io::stdout().lock();
    for (_, text) in page(&address, Some(&before), &now, None, None) {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

async fn live(arguments: &TopArguments, address: &str) -> anyhow::Result<()> {
    // Before the terminal is taken: what does not work at all is said as by any other command.
    let mut now = look(arguments, LIVE_ROWS).await?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut resized = signal(SignalKind::window_change())?;
    let screen = Screen::open()?;
    let mut before: Option<Look> = None;
    let mut trouble: Option<String> = None;
    let mut due = now.at + arguments.interval;
    loop {
        screen.draw(&page(address, before.as_ref(), &now, trouble.as_deref(), Some(terminal_size())))?;
        let next = async move {
            sleep_until(due).await;
            look(arguments, LIVE_ROWS).await
        };
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            // Drawn anew at once; a look under way begins again.
            _ = resized.recv() => {}
            looked = next => {
                due = Instant::now() + arguments.interval;
                match looked {
                    Ok(fresh) => {
                        before = Some(std::mem::replace(&mut now, fresh));
                        trouble = None;
                    }
                    // A daemon that is started again is worth waiting for, one that refuses is not.
                    Err(error) if [400, 401, 403, 404].iter().any(|status| answered(&error, *status)) => {
                        return Err(error);
                    }
                    Err(error) => trouble = Some(format!("{error:#}; trying again")),
                }
            }
        }
    }
}

async fn look(arguments: &TopArguments, rows: usize) -> anyhow::Result<Look> {
    let server = &arguments.server;
    let health = json(server, "/api/health").await?;
    let unwritable = health["log"]["writable"].as_bool() == Some(false);
    let fault = if unwritable { fault(server).await } else { None };
    let path = format!("/v1/connections?limit={rows}&sort={}", arguments.sort.name());
    let listed = json(server, &path).await;
    let mut listed = listed.context("listing the connections, for which the role admin is needed")?;
    let Some(Value::Array(connections)) = listed.get_mut("connections").map(Value::take) else {
        bail!("the daemon's answer names no connections");
    };
    let metrics = body(server, "/metrics").await.ok();
    let figures = metrics.map(|text| Figures::read(&String::from_utf8_lossy(&text)));
    Ok(Look { at: Instant::now(), health, fault, connections, figures })
}

/// What the daemon says of its fault where it is asked whether it is ready.
async fn fault(server: &Server) -> Option<String> {
    let error = body(server, "/readyz").await.err()?;
    let refusal = format!("{error:#}");
    Some(refusal.split_once(": ").map_or_else(|| refusal.clone(), |(_, words)| words.to_owned()))
}

async fn body(server: &Server, path: &str) -> anyhow::Result<Bytes> {
    let asked = async {
        let response = server.send(request("GET", path), Bytes::new()).await?;
        anyhow::Ok(response.into_body().collect().await?.to_bytes())
    };
    timeout(PATIENCE, asked).await.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
}

/// Asks for something that is answered in JSON.
pub(super) async fn json(server: &Server, path: &str) -> anyhow::Result<Value> {
    serde_json::from_slice(&body(server, path).await?).context("the daemon's answer is not JSON")
}

/// Whether the daemon refused with this status.
pub(super) fn answered(error: &anyhow::Error, status: u16) -> bool {
    format!("{error:#}").contains(&format!(" answered {status} "))
}

/// Columns and lines of the terminal. The last column stays empty: erasing the rest of a full line would take its last character.
fn terminal_size() -> (usize, usize) {
    let size = tcgetwinsize(std::io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let (columns, lines) = size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    (columns - 1, lines)
}

/// The alternate screen, without a cursor and without wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The terminal while it is ours; given back as it was, however this ends.
struct Screen {
    colours: bool,
    /// How it was before, if keys come from a terminal.
    keys: Option<Termios>,
}

impl Screen {
    fn open() -> std::io::Result<Self> {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let keys = tcgetattr(std::io::stdin()).ok();
        if let Some(keys) = &keys {
            let mut silent = keys.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // Where it does not work, what is typed shows until the next drawing.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &silent);
        }
        let screen = Self { colours, keys };
        write_out(ENTER)?;
        Ok(screen)
    }

    fn draw(&self, lines: &[Line]) -> std::io::Result<()> {
        let mut frame = String::from("\x1b[H");
        for (at, (style, text)) in lines.iter().enumerate() {
            if at > 0 {
                frame.push_str("\r\n");
            }
            let style = if self.colours { *style } else { "" };
            let plain = if style.is_empty() { "" } else { "\x1b[0m" };
            for part in [style, text.as_str(), plain, "\x1b[K"] {
                frame.push_str(part);
            }
        }
        frame.push_str("\x1b[J");
        write_out(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = write_out(LEAVE);
        if let Some(keys) = &self.keys {
            // What was typed meanwhile was not meant for the shell.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, keys);
        }
    }
}

fn write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_that_makes_sense() {
        assert_eq!(interval("250ms").unwrap(), Duration::from_millis(250));
        assert!(interval("0").is_err());
        assert!(interval("2h").is_err());
        assert!(interval("often").is_err());
    }
}
