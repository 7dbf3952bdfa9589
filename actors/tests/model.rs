//! The mailbox against a simple model: random pushes, takes and history reads; every message must be accounted for, exactly.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::Note;
use proptest::prelude::*;
use tidegate_actors::{Batch, Bounds, Lane, Level, Mailbox, OnFull, Policy, Window};

#[derive(Debug, Clone)]
enum Step {
    Push { stream: u32, lane: usize, key: Option<u8>, jump: u64 },
    Take { messages: usize },
    Read { most: usize },
    Reattach,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u32..4, 0usize..4, proptest::option::of(0u8..3), prop_oneof![9 => Just(0u64), 1 => 1u64..50])
            .prop_map(|(stream, lane, key, jump)| Step::Push { stream, lane, key, jump }),
        2 => (1usize..8).prop_map(|messages| Step::Take { messages }),
        2 => (1usize..6).prop_map(|most| Step::Read { most }),
        1 => Just(Step::Reattach),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What each stream does when there is no room: one stream for each policy that a fan-out knows, and one that conflates.
fn policy(stream: u32) -> Policy {
    match stream {
        0 => Policy::on_full(OnFull::CatchUp),
        1 => Policy::on_full(OnFull::Displace),
        2 => Policy::on_full(OnFull::Reject),
        _ => Policy { on_full: OnFull::CatchUp, conflate: true },
    }
}

type Pushed = (u64, Option<Vec<u8>>);

/// Everything pushed (the history) and everything the reader got or was told, by stream.
#[derive(Default)]
struct Books {
    history: BTreeMap<u32, Vec<Pushed>>,
    got: BTreeMap<u32, Vec<u64>>,
    told: BTreeMap<u32, u64>,
    behind: BTreeSet<u32>,
}

impl Books {
    fn reached(&self, stream: u32) -> u64 {
        self.got.get(&stream).and_then(|got| got.last().copied()).unwrap_or(0)
    }

    fn book(&mut self, batch: Batch<Note>) {
        for run in batch.shed {
            assert!(run.from <= run.to && run.count <= run.to - run.from + 1);
            *self.told.entry(run.stream).or_default() += run.count;
        }
        for note in batch.messages {
            assert!(!self.behind.contains(&note.stream), "a stream that is behind has no message in the mailbox");
            assert!(note.position > self.reached(note.stream), "stream {} went back", note.stream);
            self.got.entry(note.stream).or_default().push(note.position);
        }
        for (stream, _) in batch.behind {
            self.behind.insert(stream);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_delivered_read_conflated_or_told_and_streams_stay_in_order(bound in 1usize..12, steps in steps()) {
        let (mailbox, inbox) = Mailbox::new(Bounds { messages: bound, bytes: usize::MAX });
        let mut inbox = Some(inbox);
        let mut books = Books::default();
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let read = |books: &mut Books, inbox: &mut tidegate_actors::Inbox<Note>, most: usize| {
            for stream in books.behind.clone() {
                let reached = books.reached(stream);
                let history: Vec<u64> = books.history[&stream].iter().map(|(at, _)| *at).filter(|at| *at > reached).take(most).collect();
                books.got.entry(stream).or_default().extend(history);
                if inbox.level(&stream, books.reached(stream)) == Level::Live {
                    books.behind.remove(&stream);
                }
            }
        };
        for step in steps {
            match step {
                Step::Push { stream, lane, key, jump } => {
                    let at = next.entry(stream).or_insert(1);
                    *at += 1 + jump;
                    let key = key.map(|key| vec![key]);
                    books.history.entry(stream).or_default().push((*at, key.clone()));
                    mailbox.offer(Note { stream, position: *at, lane: Lane::ALL[lane], policy: policy(stream), key, bytes: 1 });
                    prop_assert!(mailbox.depth().messages <= bound);
                }
                Step::Take { messages } => {
                    let mut batch = Batch::default();
                    inbox.as_mut().unwrap().try_take(&mut batch, Window { messages, bytes: usize::MAX });
                    books.book(batch);
                }
                Step::Read { most } => read(&mut books, inbox.as_mut().unwrap(), most),
                Step::Reattach => {
                    drop(inbox.take());
                    inbox = mailbox.attach();
                }
            }
        }
        // Take and read until nothing is left, then do the books.
        let inbox = inbox.as_mut().unwrap();
        for _ in 0..1000 {
            let mut batch = Batch::default();
            inbox.try_take(&mut batch, Window::ALL);
            books.book(batch);
            read(&mut books, inbox, 3);
        }
        prop_assert!(books.behind.is_empty());
        prop_assert_eq!(mailbox.depth(), tidegate_actors::Depth::default());
        for (stream, history) in &books.history {
            let got = books.got.get(stream).cloned().unwrap_or_default();
            prop_assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "stream {} out of order: {:?}", stream, got);
            let told = books.told.get(stream).copied().unwrap_or_default();
            match stream {
                0 => prop_assert_eq!(got.len(), history.len(), "catch_up loses nothing"),
                3 => {
                    prop_assert_eq!(told, 0, "a stream that can be read later is never shed");
                    // What is missing was made superfluous by a later one of the same key, which was delivered.
                    for (at, key) in history.iter().filter(|(at, _)| !got.contains(at)) {
                        prop_assert!(key.is_some());
                        prop_assert!(history.iter().any(|(later, other)| later > at && other == key && got.contains(later)));
                    }
                }
                _ => prop_assert_eq!(got.len() as u64 + told, history.len() as u64, "what is missing was told"),
            }
        }
    }
}
