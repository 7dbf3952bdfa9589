//! The measurements: fan-out, replay, ingest. Each returns a [`Report`] that says what was done, how fast, how late, and whether anything was lost.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Publisher, Target};
use super::reader::{Reader, Tally, Transport};

/// Readers that connect at once.
pub(super) const CONNECTING: usize = 64;
/// When nothing has come for so long, what is missing is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was done, in words.
    pub what: String,
    /// Named figures, in order.
    pub figures: Vec<(&'static str, f64)>,
    /// Events lost, doubled or out of order.
    pub wrong: u64,
}

impl Report {
    /// A figure by its name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// All of it as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let figures: serde_json::Map<String, Value> =
            self.figures.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({ "what": self.what, "figures": figures, "wrong": self.wrong })
    }

    /// # Errors
    /// When events were lost, doubled or out of order.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if self.wrong > 0 {
            bail!("{} events were lost, doubled or out of order", self.wrong);
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        for (name, value) in &self.figures {
            writeln!(f, "  {name:24} {value:>16.2}")?;
        }
        writeln!(f, "  {:24} {:>16}", "lost, doubled, reordered", self.wrong)
    }
}

/// Runs a measurement on this thread alone.
///
/// # Errors
/// Its own.
pub fn on_one_thread<T>(measurement: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measurement)
}

/// Opens so many streams, some at a time.
///
/// # Errors
/// The first refusal.
pub async fn open_all(
    target: &Target,
    transport: Transport,
    query: &str,
    count: usize,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Reader>> {
    bar.set_message("connecting");
    bar.set_length(count as u64);
    bar.set_position(0);
    let (mut opening, mut open) = (JoinSet::new(), Vec::with_capacity(count));
    let mut started = 0;
    while open.len() < count {
        while started < count && opening.len() < CONNECTING {
            let (target, query) = (target.clone(), query.to_owned());
            opening.spawn_local(async move { Reader::open(&target, transport, &query).await });
            started += 1;
        }
        let opened = opening.join_next().await.context("no stream is being opened")?;
        open.push(opened??);
        bar.inc(1);
    }
    Ok(open)
}

/// An event of the kind `bench` that says when it was due.
pub(super) fn body(due_us: u64, bytes: usize) -> Vec<u8> {
    let mut data = format!("{{\"due\":{due_us},\"fill\":\"");
    let fill = bytes.saturating_sub(data.len() + 2);
    data.extend(std::iter::repeat_n('x', fill));
    format!("{{\"kind\":\"bench\",\"data\":{data}\"}}}}").into_bytes()
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

fn latency(figures: &mut Vec<(&'static str, f64)>, histogram: &Histogram<u64>) {
    for (name, quantile) in [("latency p50 ms", 0.5), ("latency p99 ms", 0.99), ("latency p99.9 ms", 0.999)] {
        figures.push((name, float(histogram.value_at_quantile(quantile)) / 1000.0));
    }
    figures.push(("latency max ms", float(histogram.max()) / 1000.0));
}

/// Many readers of one room.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as on the command line")]
pub struct Fanout {
    pub room: String,
    pub readers: usize,
    pub transport: Transport,
    pub publishers: usize,
    pub events: u64,
    pub rate: Option<u64>,
    pub bytes: usize,
}

impl Fanout {
    /// Measures.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn run(&self, target: &Target, bar: &ProgressBar) -> anyhow::Result<Report> {
        let query = format!("rooms={}", self.room);
        let connecting = Instant::now();
        let readers = open_all(target, self.transport, &query, self.readers, bar).await?;
        let connected = connecting.elapsed();
        self.measure(target, readers, connected, bar).await
    }

    /// Measures with readers that are open already.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn measure(
        &self,
        target: &Target,
        readers: Vec<Reader>,
        connected: Duration,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let tally = Tally::new()?;
        let count = readers.len() as u64;
        for reader in readers {
            tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        let began = Instant::now();
        tally.borrow_mut().began = began;
        let expected = self.events * count;
        bar.set_message("delivering");
        bar.set_length(expected);
        let mut publishing = JoinSet::new();
        let share = self.events / self.publishers.max(1) as u64;
        for number in 0..self.publishers as u64 {
            let events = if number == 0 { self.events - share * (self.publishers as u64 - 1) } else { share };
            let mut publisher = Publisher::connect(target, &self.room, "memory").await?;
            let (tally, bytes) = (Rc::clone(&tally), self.bytes);
            let gap = self.rate.map(|rate| Duration::from_secs_f64(self.publishers as f64 / float(rate.max(1))));
            publishing.spawn_local(async move {
                for event in 0..events {
                    let due = match gap {
                        Some(gap) => {
                            let due = began + gap.mul_f64(float(event) + float(number) / float(share.max(1)));
                            sleep_until(due).await;
                            u64::try_from((due - began).as_micros()).unwrap_or(u64::MAX)
                        }
                        None => tally.borrow().now_us(),
                    };
                    publisher.publish(&body(due, bytes)).await?;
                }
                anyhow::Ok(())
            });
        }
        let published = async {
            while let Some(done) = publishing.join_next().await {
                done??;
            }
            anyhow::Ok(())
        };
        let (published, ()) = tokio::join!(published, settle(&tally, expected, bar));
        published?;
        let tally = tally.borrow();
        let seconds = (tally.last - began).as_secs_f64();
        let what = format!(
            "fan-out: one room, {count} readers over {:?}, {} publishers, {} events of {} bytes of data{}",
            self.transport,
            self.publishers,
            self.events,
            self.bytes,
            self.rate.map_or(String::new(), |rate| format!(" at {rate}/s"))
        );
        let mut figures = vec![
            ("deliveries/s", float(tally.delivered) / seconds),
            ("deliveries", float(tally.delivered)),
            ("connects/s", float(count) / connected.as_secs_f64().max(1e-9)),
        ];
        latency(&mut figures, &tally.latency_us);
        let missing = expected.saturating_sub(tally.delivered);
        Ok(Report { what, figures, wrong: missing.max(tally.lost) + tally.doubled })
    }
}

/// Waits until everything has come, or nothing comes any more.
pub(super) async fn settle(tally: &Rc<RefCell<Tally>>, expected: u64, bar: &ProgressBar) {
    let mut before = 0;
    let mut since = Instant::now();
    loop {
        let delivered = tally.borrow().delivered;
        bar.set_position(delivered);
        if delivered >= expected || (delivered == before && since.elapsed() > PATIENCE) {
            return;
        }
        if delivered != before {
            (before, since) = (delivered, Instant::now());
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// One reader that comes back for its history.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as on the command line")]
pub struct Replay {
    pub room: String,
    pub events: u64,
    pub runs: u64,
    pub bytes: usize,
}

impl Replay {
    /// Measures, from the request to the last event.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn run(&self, target: &Target, bar: &ProgressBar) -> anyhow::Result<Report> {
        bar.set_message("publishing");
        bar.set_length(self.events);
        let mut publisher = Publisher::connect(target, &self.room, "logged").await?;
        let (mut first, mut left) = (None, self.events);
        while left > 0 {
            let batch: Vec<Vec<u8>> = (0..left.min(500)).map(|_| body(0, self.bytes)).collect();
            left -= batch.len() as u64;
            let joined = [b"[".as_slice(), &batch.join(&b','), b"]"].concat();
            let answer: Value = serde_json::from_slice(publisher.publish(&joined).await?)?;
            first = first.or(answer["first_seq"].as_u64());
            bar.inc(batch.len() as u64);
        }
        let after = first.context("an answer without a seq")? - 1;
        bar.set_message("replaying");
        bar.set_length(self.runs);
        bar.set_position(0);
        let mut times = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
        let mut wrong = 0;
        for _ in 0..self.runs {
            let tally = Tally::new()?;
            let began = Instant::now();
            let reader = Reader::open(target, Transport::Sse, &format!("rooms={}&after={after}", self.room)).await?;
            let counted = tokio::time::timeout(PATIENCE, reader.count(Rc::clone(&tally), self.events)).await;
            times.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
            let tally = tally.borrow();
            wrong += tally.lost + tally.doubled + self.events.saturating_sub(tally.delivered);
            if counted.is_err() {
                bail!("only {} of {} events came", tally.delivered, self.events);
            }
            bar.inc(1);
        }
        let mut figures = vec![
            ("replay p50 ms", float(times.value_at_quantile(0.5)) / 1000.0),
            ("replay p99 ms", float(times.value_at_quantile(0.99)) / 1000.0),
        ];
        figures.push(("events/s", float(self.events) / (float(times.value_at_quantile(0.5)) / 1e6)));
        let what = format!(
            "replay: one SSE reader comes back for {} events of {} bytes of data, {} times",
            self.events, self.bytes, self.runs
        );
        Ok(Report { what, figures, wrong })
    }
}

/// Publishing alone.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as on the command line")]
pub struct Ingest {
    pub room: String,
    pub publishers: usize,
    pub requests: u64,
    pub batch: usize,
    pub ack: String,
    pub bytes: usize,
}

impl Ingest {
    /// Measures, from the first request to the last answer.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn run(&self, target: &Target, bar: &ProgressBar) -> anyhow::Result<Report> {
        bar.set_message("publishing");
        bar.set_length(self.requests);
        let one = body(0, self.bytes);
        let request =
            if self.batch == 1 { one } else { [b"[".as_slice(), &vec![one; self.batch].join(&b','), b"]"].concat() };
        let times = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?));
        let began = Instant::now();
        let mut publishing = JoinSet::new();
        let share = self.requests / self.publishers.max(1) as u64;
        for number in 0..self.publishers {
            let mut publisher = Publisher::connect(target, &format!("{}:{number}", self.room), &self.ack).await?;
            let (request, times, bar) = (request.clone(), Rc::clone(&times), bar.clone());
            publishing.spawn_local(async move {
                for _ in 0..share {
                    let sent = Instant::now();
                    publisher.publish(&request).await?;
                    times.borrow_mut().record(u64::try_from(sent.elapsed().as_micros())?.max(1))?;
                    bar.inc(1);
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = publishing.join_next().await {
            done??;
        }
        let seconds = began.elapsed().as_secs_f64();
        let requests = share * self.publishers as u64;
        let what = format!(
            "ingest: {} publishers, {requests} requests of {} events of {} bytes of data, ack={}",
            self.publishers, self.batch, self.bytes, self.ack
        );
        let mut figures = vec![
            ("requests/s", float(requests) / seconds),
            ("events/s", float(requests * self.batch as u64) / seconds),
        ];
        latency(&mut figures, &times.borrow());
        Ok(Report { what, figures, wrong: 0 })
    }
}
