//! What thinning promises: never too many, the first at once, the last always, in order, and nothing unaccounted for.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use tidegate_actors::Policy;

use super::*;
use crate::event::{RoomKey, RoomName};

fn events(list: &[(u64, &str, i64)]) -> Vec<Arc<Event>> {
    let room = RoomKey::new(RoomName::parse("r").unwrap(), Policy::default());
    let parts = list.iter().enumerate().map(|(at, (ms, key, value))| {
        let (seq, key, data) =
            (100 + at as u64, Some(*key).filter(|key| !key.is_empty()), format!("{{\"v\":{value},\"s\":\"x\"}}"));
        let parts = Parts {
            seq,
            arrived_ms: *ms,
            timestamp_ms: *ms,
            priority: Lane::Normal,
            kind: "k",
            key,
            id: None,
            change: false,
            data: data.as_bytes(),
        };
        Arc::new(Event::new(&room, &parts))
    });
    parts.collect()
}

fn thin(period_ms: u64, mode: Mode) -> Thin {
    Thin::of(&Contract { mode, period_ms, ..Contract::default() }, true).unwrap()
}

/// What goes out at which time: of the events, and of the clock at every step between them.
fn run(thin: &mut Thin, events: &[Arc<Event>], end_ms: u64) -> (Vec<(u64, Arc<Event>)>, u64) {
    let (mut all, mut merged, mut at) = (Vec::new(), 0, 0);
    for ms in 0..=end_ms {
        let mut out = Vec::new();
        merged += thin.clock(ms, &mut out).merged;
        while let Some(event) = events.get(at).filter(|event| event.arrived_ms == ms) {
            merged += thin.take(event, &mut out).merged;
            at += 1;
        }
        // Whoever breaks off behind any of them loses nothing: what is still to come begins after its cursor.
        for (at, one) in out.iter().enumerate() {
            let later = out[at + 1..].iter().map(|later| later.event.seq).chain(thin.first_held());
            assert!(later.min().is_none_or(|first| one.cursor < first), "{one:?}");
        }
        all.extend(out.into_iter().map(|out| (ms, out.event)));
    }
    (all, merged)
}

fn seqs(out: &[(u64, Arc<Event>)]) -> Vec<(u64, u64)> {
    out.iter().map(|(ms, event)| (*ms, event.seq - 100)).collect()
}

#[test]
fn the_first_value_comes_at_once_and_the_last_of_a_burst_at_the_end_of_the_period() {
    let (out, merged) = run(&mut thin(10, Mode::Every), &events(&[(1, "", 1), (2, "", 2), (5, "", 3)]), 100);
    assert_eq!((seqs(&out), merged), (vec![(1, 0), (11, 2)], 1));
}

#[test]
fn the_periods_clock_is_not_moved_by_what_is_dropped() {
    let list: Vec<(u64, &str, i64)> = (0..40).map(|ms| (ms, "", 0)).collect();
    let (out, _) = run(&mut thin(10, Mode::Every), &events(&list), 100);
    assert_eq!(seqs(&out).iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
}

#[test]
fn keys_are_spaced_each_for_itself() {
    let (out, _) = run(&mut thin(10, Mode::Every), &events(&[(0, "a", 1), (0, "b", 2), (1, "a", 3), (1, "b", 4)]), 50);
    assert_eq!(seqs(&out), [(0, 0), (0, 1), (10, 2), (10, 3)]);
}

#[test]
fn a_period_becomes_one_value_at_its_end_and_the_first_value_comes_at_once() {
    let list = events(&[(3, "", 1), (5, "", 3), (9, "", 8), (12, "", 10)]);
    let (out, merged) = run(&mut thin(10, Mode::Made(Function::Mean)), &list, 200);
    let data: Vec<&[u8]> = out.iter().map(|(_, event)| event.data()).collect();
    assert_eq!(data, [&br#"{"v":1,"s":"x"}"#[..], br#"{"s":"x","v":4}"#, br#"{"s":"x","v":10}"#]);
    assert_eq!((seqs(&out)[1], out[1].1.timestamp_ms, merged), ((12, 2), 0, 1));
}

#[test]
fn the_past_comes_out_as_it_would_have_live() {
    let list = events(&[(3, "a", 1), (5, "b", 3), (9, "a", 8), (12, "a", 10), (31, "b", 1)]);
    let contract = Contract { mode: Mode::Made(Function::Max), period_ms: 10, ..Contract::default() };
    let (mut live, mut past) = (Thin::of(&contract, false).unwrap(), Thin::of(&contract, false).unwrap());
    let (live, _) = run(&mut live, &list, 300);
    let mut out = Vec::new();
    for event in &list {
        past.take(event, &mut out);
    }
    past.flush(&mut out);
    let live: Vec<_> = live.iter().map(|(_, event)| event.json()).collect();
    assert_eq!(live, out.iter().map(|out| out.event.json()).collect::<Vec<_>>());
}

#[test]
fn of_a_field_only_that_field_is_made() {
    let field = Paths::default().field("v").unwrap();
    let contract =
        Contract { mode: Mode::Made(Function::Last), field: Some(field), period_ms: 10, ..Contract::default() };
    let mut thin = Thin::of(&contract, false).unwrap();
    let (out, _) = run(&mut thin, &events(&[(1, "", 5), (2, "", 7)]), 100);
    assert_eq!(out[0].1.data(), br#"{"v":7}"#);
}

use crate::pipelines::field::Paths;

proptest! {
    #[test]
    fn the_past_is_spaced_as_it_was_live(steps in proptest::collection::vec((0u64..25, 0usize..3), 1..60)) {
        let mut ms = 0;
        let list: Vec<(u64, &str, i64)> = steps.iter().map(|(later, key)| {
            ms += later;
            (ms, ["a", "b", ""][*key], 0)
        }).collect();
        let list = events(&list);
        let (live, _) = run(&mut thin(10, Mode::Every), &list, ms + 50);
        let (mut past, mut out) = (thin(10, Mode::Every), Vec::new());
        for event in &list {
            past.take(event, &mut out);
        }
        past.clock(ms + 50, &mut out);
        let seqs: Vec<u64> = live.iter().map(|(_, event)| event.seq).collect();
        prop_assert_eq!(seqs, out.iter().map(|out| out.event.seq).collect::<Vec<_>>());
    }

    #[test]
    fn whatever_comes_the_promises_hold(steps in proptest::collection::vec((0u64..12, 0usize..3, -9i64..9), 1..60), made in any::<bool>()) {
        let mut ms = 0;
        let list: Vec<(u64, &str, i64)> = steps.iter().map(|(later, key, value)| {
            ms += later;
            (ms, ["a", "b", ""][*key], *value)
        }).collect();
        let list = events(&list);
        let mut thin = thin(10, if made { Mode::Made(Function::Min) } else { Mode::Every });
        let (out, merged) = run(&mut thin, &list, ms + 200);
        // In order, nothing held for ever, nothing unaccounted for.
        prop_assert!(out.windows(2).all(|two| two[0].1.seq < two[1].1.seq));
        prop_assert_eq!((thin.held(), thin.first_held()), (0, None));
        prop_assert_eq!(out.len() as u64 + merged, list.len() as u64);
        for key in ["a", "b", ""] {
            let of = |event: &Event| event.key.as_deref().unwrap_or("") == key;
            let last = list.iter().rfind(|event| of(event)).map(|event| event.seq);
            prop_assert_eq!(out.iter().rfind(|(_, event)| of(event)).map(|(_, event)| event.seq), last);
        }
        prop_assert_eq!(out[0].0, list[0].arrived_ms);
    }

    #[test]
    fn one_key_alone_never_gets_two_in_a_period(steps in proptest::collection::vec(0u64..25, 1..60)) {
        let mut ms = 0;
        let list: Vec<(u64, &str, i64)> = steps.iter().map(|later| {
            ms += later;
            (ms, "a", 0)
        }).collect();
        let (out, _) = run(&mut thin(10, Mode::Latest), &events(&list), ms + 50);
        prop_assert!(out.windows(2).all(|two| two[1].0 - two[0].0 >= 10), "{:?}", seqs(&out));
    }
}
