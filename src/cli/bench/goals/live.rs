//! A room that goes on live while something else happens: readers, a publisher at a steady rate, and how late they are in each part. `storm` and `stalled` measure themselves by
//! it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::fan::BYTES;
use super::server::Server;
use crate::cli::bench::http::Publisher;
use crate::cli::bench::reader::{Tally, Transport};
use crate::cli::bench::rows::{float, open_each, settle};

/// Events a second.
const RATE: u32 = 50;

/// A room at work.
#[derive(Debug)]
pub(super) struct Live {
    tally: Rc<RefCell<Tally>>,
    readers: u64,
    stop: Rc<Cell<bool>>,
    publishing: JoinHandle<anyhow::Result<u64>>,
}

impl Live {
    /// Opens its streams and begins to publish.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn begin(server: &Server, readers: usize, bar: &indicatif::ProgressBar) -> anyhow::Result<Self> {
        let speech = server.shared_speech();
        let requests = (0..readers).map(|_| speech.stream("bench:live", Transport::WebSocket, None));
        let open = open_each(speech.address(), requests, bar).await?;
        let tally = Tally::new()?;
        for reader in open {
            tokio::task::spawn_local(reader.count(Rc::clone(&tally), u64::MAX));
        }
        let request = speech.publish("bench:live", "memory");
        let mut publisher = Publisher::open(speech.address(), std::slice::from_ref(&request)).await?;
        let stop = Rc::new(Cell::new(false));
        let (began, stopped) = (Instant::now(), Rc::clone(&stop));
        tally.borrow_mut().began = began;
        let publishing = tokio::task::spawn_local(async move {
            let mut events = 0;
            while !stopped.get() {
                let due = began + Duration::from_secs(1) / RATE * events;
                sleep_until(due).await;
                let due_us = u64::try_from((due - began).as_micros())?;
                events += 1;
                publisher.publish(&request.body(due_us, events.into(), BYTES)).await?;
            }
            Ok(u64::from(events))
        });
        Ok(Self { tally, readers: readers as u64, stop, publishing })
    }

    /// The 99th percentile since the last time this was asked, in milliseconds; what comes from now on counts for the next.
    pub(super) fn p99_ms(&self) -> f64 {
        let mut tally = self.tally.borrow_mut();
        let p99_us = tally.latency_us.value_at_quantile(0.99);
        tally.latency_us.reset();
        float(p99_us) / 1000.0
    }

    /// Stops publishing; how many events were lost, doubled or out of order at all readers together.
    ///
    /// # Errors
    /// When a publish was refused.
    pub(super) async fn end(self, bar: &indicatif::ProgressBar) -> anyhow::Result<u64> {
        self.stop.set(true);
        let expected = self.publishing.await?? * self.readers;
        settle(&self.tally, expected, bar).await;
        Ok(self.tally.borrow().wrong(expected))
    }
}
