//! The mailbox under a model checker: no wake is lost and nothing falls between history and live, whatever the scheduler does.
//!
//! Built and run with `RUSTFLAGS="--cfg shuttle"`; `tests/run` does so. Each case runs thousands of random schedules and as many with few preemptions placed at random depths.
#![cfg(shuttle)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::future::poll_fn;

use common::Note;
use shuttle::sync::{Arc, Mutex};
use tidegate_actors::{Batch, Bounds, Lane, Level, Mailbox, OnFull, Window};

fn check(case: fn()) {
    shuttle::check_random(case, 5000);
    shuttle::check_pct(case, 5000, 3);
}

fn note(stream: u32, position: u64, on_full: OnFull) -> Note {
    Note::new(stream, position, Lane::Normal, on_full)
}

#[test]
fn no_wake_is_lost_between_several_senders_and_a_sleeping_reader() {
    check(|| {
        let (mailbox, mut inbox) = Mailbox::new(Bounds { messages: 100, bytes: usize::MAX });
        for stream in 0..3 {
            let mailbox = mailbox.clone();
            shuttle::thread::spawn(move || {
                for position in 1..=3 {
                    mailbox.push(note(stream, position, OnFull::Reject)).unwrap();
                }
            });
        }
        // A lost wake would leave this asleep for ever, which the checker reports as a deadlock.
        shuttle::future::block_on(async move {
            let mut batch = Batch::default();
            while batch.messages.len() < 9 {
                poll_fn(|cx| inbox.poll_take(cx, &mut batch, Window::ALL)).await;
            }
        });
    });
}

#[test]
fn a_close_wakes_the_reader() {
    check(|| {
        let (mailbox, mut inbox) = Mailbox::<Note>::new(Bounds { messages: 1, bytes: usize::MAX });
        shuttle::thread::spawn(move || mailbox.close());
        shuttle::future::block_on(async move {
            let mut batch = Batch::default();
            while !batch.closed {
                poll_fn(|cx| inbox.poll_take(cx, &mut batch, Window::ALL)).await;
            }
        });
    });
}

#[test]
fn history_and_live_join_without_gap_or_duplicate() {
    check(|| {
        const LAST: u64 = 8;
        let (mailbox, mut inbox) = Mailbox::new(Bounds { messages: 2, bytes: usize::MAX });
        let history = Arc::new(Mutex::new(Vec::new()));
        let writing = Arc::clone(&history);
        shuttle::thread::spawn(move || {
            for position in 1..=LAST {
                // As a room does: into the history first, then to the readers.
                writing.lock().unwrap().push(position);
                mailbox.offer(note(1, position, OnFull::CatchUp));
            }
        });
        shuttle::future::block_on(async move {
            let (mut got, mut behind) = (Vec::new(), false);
            let mut batch = Batch::default();
            while got.last() != Some(&LAST) {
                if behind {
                    let reached = got.last().copied().unwrap_or(0);
                    // One at a time, so that the end of the catching up meets the sender at every step.
                    let next = history.lock().unwrap().iter().copied().find(|position| *position > reached);
                    got.extend(next);
                    behind = inbox.level(&1, got.last().copied().unwrap_or(0)) != Level::Live;
                    continue;
                }
                poll_fn(|cx| inbox.poll_take(cx, &mut batch, Window::ALL)).await;
                got.extend(batch.messages.drain(..).map(|note| note.position));
                behind |= batch.behind.drain(..).count() > 0;
            }
            assert_eq!(got, (1..=LAST).collect::<Vec<_>>());
        });
    });
}

#[test]
fn a_reader_that_goes_and_one_that_comes_lose_nothing_between_them() {
    check(|| {
        let (mailbox, inbox) = Mailbox::new(Bounds { messages: 100, bytes: usize::MAX });
        let sending = mailbox.clone();
        shuttle::thread::spawn(move || {
            for position in 1..=4 {
                sending.push(note(1, position, OnFull::Reject)).unwrap();
            }
        });
        shuttle::future::block_on(async move {
            let mut batch = Batch::default();
            let mut inbox = Some(inbox);
            while batch.messages.len() < 4 {
                let reader = inbox.as_mut().unwrap();
                poll_fn(|cx| reader.poll_take(cx, &mut batch, Window { messages: 1, bytes: usize::MAX })).await;
                drop(inbox.take());
                inbox = mailbox.attach();
            }
            assert_eq!(batch.messages.iter().map(|note| note.position).collect::<Vec<_>>(), [1, 2, 3, 4]);
        });
    });
}
