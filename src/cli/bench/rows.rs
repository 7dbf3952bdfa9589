//! The measurements: fan-out, replay, ingest. Each returns a [`Report`] that says what was done, how fast, how late, and whether anything was lost.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{PublishRequest, Publisher, Speech, StreamRequest, Target};
use super::reader::{Reader, Tally, Transport};

/// Readers that connect at once.
const CONNECTING: usize = 64;
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

/// Opens so many streams of tidegate's, some at a time.
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
    open_each(target.address, (0..count).map(|_| target.ask(transport, query)), bar).await
}

/// Opens a stream for each request, some at a time.
///
/// # Errors
/// The first refusal.
pub async fn open_each(
    address: SocketAddr,
    requests: impl ExactSizeIterator<Item = StreamRequest>,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Reader>> {
    bar.set_message("connecting");
    bar.set_length(requests.len() as u64);
    bar.set_position(0);
    let mut open = Vec::with_capacity(requests.len());
    let (mut opening, mut requests) = (JoinSet::new(), requests.fuse());
    loop {
        while opening.len() < CONNECTING
            && let Some(request) = requests.next()
        {
            opening.spawn_local(async move { Reader::connect(address, &request).await });
        }
        let Some(opened) = opening.join_next().await else { return Ok(open) };
        open.push(opened??);
        bar.inc(1);
    }
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

/// Many readers of one room, or of each of several.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "as on the command line")]
pub struct Fanout {
    pub room: String,
    /// How many rooms there are; publishers go round them.
    pub rooms: usize,
    /// Readers of each room.
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
    pub async fn run(&self, speech: &dyn Speech, bar: &ProgressBar) -> anyhow::Result<Report> {
        let connecting = Instant::now();
        let readers = self.open(speech, bar).await?;
        let connected = connecting.elapsed();
        let count = float(readers.len() as u64);
        let mut report = self.measure(speech, readers, bar).await?;
        report.figures.insert(2, ("connects/s", count / connected.as_secs_f64().max(1e-9)));
        Ok(report)
    }

    fn names(&self) -> Vec<String> {
        if self.rooms == 1 {
            return vec![self.room.clone()];
        }
        (0..self.rooms).map(|number| format!("{}-{number}", self.room)).collect()
    }

    /// Opens its readers' streams.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn open(&self, speech: &dyn Speech, bar: &ProgressBar) -> anyhow::Result<Vec<Reader>> {
        let names = self.names();
        let requests = (0..names.len() * self.readers)
            .map(|number| speech.stream(&names[number % names.len()], self.transport, None));
        open_each(speech.address(), requests, bar).await
    }

    /// Measures with readers that are open already.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn measure(
        &self,
        speech: &dyn Speech,
        readers: Vec<Reader>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let tally = Tally::new()?;
        for reader in readers {
            tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        let expected = self.events * self.readers as u64;
        bar.set_message("delivering");
        bar.set_length(expected);
        let mut publishing = self.publishers(speech, &tally).await?;
        let began = tally.borrow().began;
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
        let rooms = if self.rooms == 1 { "one room".to_owned() } else { format!("{} rooms", self.rooms) };
        let what = format!(
            "fan-out: {rooms}, {} readers each over {:?}, {} publishers, {} events of {} bytes of data{}",
            self.readers,
            self.transport,
            self.publishers,
            self.events,
            self.bytes,
            self.rate.map_or(String::new(), |rate| format!(" at {rate}/s"))
        );
        let mut figures =
            vec![("deliveries/s", float(tally.delivered) / seconds.max(1e-9)), ("deliveries", float(tally.delivered))];
        latency(&mut figures, &tally.latency_us);
        Ok(Report { what, figures, wrong: tally.wrong(expected) })
    }

    /// Connects its publishers and lets them begin; the tally begins with them.
    async fn publishers(
        &self,
        speech: &dyn Speech,
        tally: &Rc<RefCell<Tally>>,
    ) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let requests: Vec<_> = self.names().iter().map(|name| speech.publish(name, "memory")).collect();
        let mut connected = Vec::with_capacity(self.publishers);
        for _ in 0..self.publishers {
            connected.push(Publisher::open(speech.address(), &requests).await?);
        }
        let began = Instant::now();
        tally.borrow_mut().began = began;
        let (count, bytes) = (self.publishers as u64, self.bytes);
        let gap = self.rate.map(|rate| Duration::from_secs_f64(1.0 / float(rate.max(1))));
        let events = self.events;
        let mut publishing = JoinSet::new();
        for (first, mut publisher) in (0..).zip(connected) {
            let (tally, requests) = (Rc::clone(tally), requests.clone());
            publishing.spawn_local(async move {
                // Each takes every so manieth event.
                for event in (first..events).step_by(usize::try_from(count)?) {
                    let due = match gap {
                        Some(gap) => {
                            let due = began + gap.mul_f64(float(event));
                            sleep_until(due).await;
                            u64::try_from((due - began).as_micros()).unwrap_or(u64::MAX)
                        }
                        None => tally.borrow().now_us(),
                    };
                    let which = usize::try_from(event)? % requests.len();
                    publisher.publish_to(which, &requests[which].body(due, event + 1, bytes)).await?;
                }
                anyhow::Ok(())
            });
        }
        Ok(publishing)
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
    /// Events in one publish.
    pub batch: u64,
    /// The room's number before its first event, where it is known without the server's answer.
    pub after: Option<u64>,
}

impl Replay {
    /// Publishes what it comes back for; the number of the last event before it.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn fill(&self, speech: &dyn Speech, bar: &ProgressBar) -> anyhow::Result<u64> {
        bar.set_message("publishing");
        bar.set_length(self.events);
        bar.set_position(0);
        let request = speech.publish(&self.room, "logged");
        let mut publisher = Publisher::open(speech.address(), std::slice::from_ref(&request)).await?;
        let (mut first, mut left) = (None, self.events);
        while left > 0 {
            let batch = left.min(self.batch.max(1));
            left -= batch;
            let answer = publisher.publish(&request.batch(usize::try_from(batch)?, self.bytes)).await?;
            if first.is_none() {
                first = serde_json::from_slice::<Value>(answer)?["first_seq"].as_u64();
            }
            bar.inc(batch);
        }
        self.after.or(first.map(|first| first - 1)).context("an answer without a seq")
    }

    /// Measures, from the request to the last event.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn run(&self, speech: &dyn Speech, bar: &ProgressBar) -> anyhow::Result<Report> {
        let after = self.fill(speech, bar).await?;
        bar.set_message("replaying");
        bar.set_length(self.runs);
        bar.set_position(0);
        let request = speech.stream(&self.room, Transport::Sse, Some(after));
        let mut times = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
        let mut wrong = 0;
        for _ in 0..self.runs {
            let tally = Tally::new()?;
            let began = Instant::now();
            let reader = Reader::connect(speech.address(), &request).await?;
            let counted = tokio::time::timeout(PATIENCE, reader.count(Rc::clone(&tally), self.events)).await;
            times.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
            let tally = tally.borrow();
            wrong += tally.wrong(self.events);
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
    /// Measures, from the first request to the last answer. Each publisher has a room of its own.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn run(&self, speech: &dyn Speech, bar: &ProgressBar) -> anyhow::Result<Report> {
        let requests: Vec<_> =
            (0..self.publishers).map(|number| speech.publish(&format!("{}:{number}", self.room), &self.ack)).collect();
        let body = requests.first().context("no publishers")?.batch(self.batch, self.bytes);
        self.measure(speech.address(), requests, body, bar).await
    }

    /// Measures what these requests take with this body.
    ///
    /// # Errors
    /// When the daemon refuses or breaks off.
    pub async fn measure(
        &self,
        address: SocketAddr,
        requests: Vec<PublishRequest>,
        body: Vec<u8>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Report> {
        bar.set_message("publishing");
        bar.set_length(self.requests);
        bar.set_position(0);
        let times = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?));
        let mut connected = Vec::with_capacity(requests.len());
        for request in &requests {
            connected.push(Publisher::open(address, std::slice::from_ref(request)).await?);
        }
        let (publishers, share) = (requests.len() as u64, self.requests.div_ceil(requests.len().max(1) as u64));
        let began = Instant::now();
        let mut publishing = JoinSet::new();
        for mut publisher in connected {
            let (body, times, bar) = (body.clone(), Rc::clone(&times), bar.clone());
            publishing.spawn_local(async move {
                for _ in 0..share {
                    let sent = Instant::now();
                    publisher.publish(&body).await?;
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
        let requests = share * publishers;
        let what = format!(
            "ingest: {publishers} publishers, {requests} requests of {} events of {} bytes of data, ack={}",
            self.batch, self.bytes, self.ack
        );
        let mut figures = vec![
            ("requests/s", float(requests) / seconds),
            ("events/s", float(requests * self.batch as u64) / seconds),
        ];
        latency(&mut figures, &times.borrow());
        Ok(Report { what, figures, wrong: 0 })
    }
}
