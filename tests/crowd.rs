//! A crowd: thousands of idle streams are held while others are served, one too many is told so, and when all have gone nothing is left of them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

use std::rc::Rc;
use std::time::Duration;

use harness::Daemon;
use indicatif::ProgressBar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate::cli::bench::reader::{Reader, Tally, Transport};
use tidegate::cli::bench::rows::{Fanout, on_one_thread, open_all};
use tokio::time::Instant;

/// Idle streams of each kind where 20,000 files may be open; fewer where fewer may.
const IDLE: usize = 9000;
const ACTIVE: usize = 500;
const LIMIT: Duration = Duration::from_secs(60);

/// How many sockets this process may have.
fn files() -> usize {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).unwrap();
    usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)).unwrap()
}

#[test]
fn a_crowd_of_idle_streams_is_held_while_a_thousand_more_are_served_and_leaves_nothing_behind() {
    let idle = IDLE.min(files().saturating_sub(2000) / 2);
    assert!(idle >= 100, "this test needs more open files: ulimit -Hn");
    let daemon = Daemon::start(&[]);
    on_one_thread(async {
        let bar = ProgressBar::hidden();
        let actors_before = daemon.health("actors").await;
        let mut crowd = open_all(&daemon.target, Transport::WebSocket, "rooms=quiet", idle, &bar).await?;
        crowd.extend(open_all(&daemon.target, Transport::Sse, "rooms=quiet", idle, &bar).await?);
        let open = daemon.health("connections").await;
        assert_eq!(open, 2 * idle as u64);

        // Two rooms with 500 readers each, ten events a second for five seconds.
        let tallies = [Tally::new()?, Tally::new()?];
        for (transport, tally) in [Transport::WebSocket, Transport::Sse].into_iter().zip(&tallies) {
            let readers = open_all(&daemon.target, transport, "rooms=bench:crowd", ACTIVE, &bar).await?;
            for reader in readers {
                tokio::task::spawn_local(reader.count(Rc::clone(tally), u64::MAX));
            }
        }
        let publishing = Fanout {
            room: "bench:crowd".to_owned(),
            rooms: 1,
            readers: 1,
            transport: Transport::Sse,
            publishers: 1,
            events: 50,
            rate: Some(10),
            bytes: 200,
        };
        let report = publishing.run(&daemon.target, &bar).await?;
        assert_eq!(report.wrong, 0, "{report}");
        let began = Instant::now();
        for tally in &tallies {
            while tally.borrow().delivered < 50 * ACTIVE as u64 {
                assert!(began.elapsed() < LIMIT, "only {} of {}", tally.borrow().delivered, 50 * ACTIVE);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!((tally.borrow().lost, tally.borrow().doubled, tally.borrow().ended), (0, 0, 0));
        }
        assert!(crowd.iter().all(Reader::idle));
        drop(crowd);
        Ok(actors_before)
    })
    .and_then(|actors_before| {
        // The thread's other readers went with its runtime; now nobody is there.
        on_one_thread(async {
            let began = Instant::now();
            // The rooms' actors stay until the rooms are idle; the streams' must not.
            while daemon.health("connections").await > 0 || daemon.health("actors").await > actors_before + 2 {
                assert!(began.elapsed() < LIMIT, "streams are left: {}", daemon.health("connections").await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
    })
    .unwrap();
}

#[test]
fn one_connection_too_many_is_told_so_and_the_daemon_goes_on() {
    files();
    let daemon = Daemon::start(&["limits.connections=50"]);
    on_one_thread(async {
        let bar = ProgressBar::hidden();
        let open = open_all(&daemon.target, Transport::Sse, "rooms=bench:full", 50, &bar).await?;
        let refused =
            Reader::open(&daemon.target, Transport::WebSocket, "rooms=bench:full").await.unwrap_err().to_string();
        for part in ["503", "retry-after", "too-many-connections"] {
            assert!(refused.to_lowercase().contains(part), "{part} in {refused}");
        }
        assert!(open.iter().all(Reader::idle));
        drop(open);
        let began = Instant::now();
        while Reader::open(&daemon.target, Transport::WebSocket, "rooms=bench:full").await.is_err() {
            assert!(began.elapsed() < LIMIT, "places that are free again are not given out");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
    .unwrap();
}
