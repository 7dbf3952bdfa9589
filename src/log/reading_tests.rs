//! What reading promises: what is read is what was written, whatever is held in memory and whatever goes meanwhile, and no request costs more than its share.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::index::Place;
use super::keeping::OPEN;
use super::tests::{LIMIT, append, key, open, seqs};
use super::*;
use crate::clock;
use crate::event::NewEvent;

fn data(seq: u64) -> String {
    format!("{{\"of\":{seq},\"{}\":0}}", "y".repeat(usize::try_from(seq % 300).unwrap()))
}

/// Appends events whose data tell their seq.
async fn append_told(log: &Log, key: &RoomKey, seqs: std::ops::RangeInclusive<u64>) -> Arc<RoomIndex> {
    let room = log.room_or_create(key.name(), *seqs.start());
    let event = |seq| Event::number(key, seq, clock::now_ms(), clock::now_us(), NewEvent::new("k", data(seq).into()));
    let events = seqs.map(|seq| Arc::new(event(seq))).collect();
    log.append(&room, events, Ack::Logged).await.unwrap().unwrap().await.unwrap();
    room
}

fn check(events: &[Arc<Event>], key: &RoomKey, after: u64, held: u64) {
    let mut last = events.first().map_or(0, |event| event.seq - 1);
    assert!(events.is_empty() || (last >= after && last + 1 >= held), "{last} after {after}, held from {held}");
    for event in events {
        assert_eq!((event.seq, &event.room, event.data()), (last + 1, key, data(event.seq).as_bytes()));
        last = event.seq;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_what_was_written_while_generations_roll_and_go() {
    let seed: u64 = rand::rng().random();
    for cache in ["0B", "40KiB", "32MiB"] {
        let dir = tempfile::tempdir().unwrap();
        let more = [
            ("log.generation_bytes", "1MiB"),
            ("rooms.default.retention_count", "7000"),
            ("log.read_cache_bytes", cache),
        ];
        let (log, a) = (open(dir.path(), &more).unwrap(), key("a"));
        let room = append_told(&log, &a, 1..=1000).await;
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3_u64)
            .map(|number| {
                let (log, room, a, done) = (log.clone(), Arc::clone(&room), a.clone(), Arc::clone(&done));
                let mut rng = SmallRng::seed_from_u64(seed ^ number);
                tokio::spawn(async move {
                    let mut read = 0;
                    while !done.load(Ordering::Relaxed) || read == 0 {
                        let held = room.held().unwrap();
                        let (after, most) = (rng.random_range(0..=held.last), rng.random_range(1..600));
                        if let Some(events) = log.read_held(&a, &room, after, most, 1 << 20) {
                            assert!(events.len() <= most);
                            check(&events, &a, after, held.first);
                        }
                        let events = log.read_wait(&a, &room, after, most).await.unwrap();
                        assert!(events.len() <= most && (after == held.last || !events.is_empty()), "seed {seed}");
                        check(&events, &a, after, held.first);
                        read += events.len();
                    }
                })
            })
            .collect();
        for round in 1..25_u64 {
            append_told(&log, &a, round * 1000 + 1..=(round + 1) * 1000).await;
            let working = log.clone();
            tokio::task::spawn_blocking(move || working.housekeep()).await.unwrap().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap_or_else(|error| panic!("seed {seed}, cache {cache}: {error}"));
        }
        // Retention lets whole runs go, so up to one run more lies there; none of it is shown.
        assert_eq!(seqs(&log, &a, 0).await, (18_001..=25_000).collect::<Vec<_>>());
        assert!(log.status().generations < 5, "{:?}", log.status());
        assert!(log.close(LIMIT));
    }
}

#[tokio::test]
async fn what_one_has_read_others_have_without_reading_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let more = [("log.generation_bytes", "1MiB"), ("rooms.default.retention_count", "10")];
    let (log, a) = (open(dir.path(), &more).unwrap(), key("a"));
    let room = append_told(&log, &a, 1..=10).await;
    assert!(log.read_held(&a, &room, 0, 10, 1 << 20).is_none(), "nobody has read it");
    let first = log.read_wait(&a, &room, 0, 10).await.unwrap();
    let held = log.read_held(&a, &room, 0, 10, 1 << 20).unwrap();
    let again = log.read_wait(&a, &room, 0, 10).await.unwrap();
    assert_eq!(first.len(), 10);
    for others in [held, again] {
        assert!(first.iter().zip(&others).all(|(one, other)| Arc::ptr_eq(one, other)) && others.len() == 10);
    }
    // A room that went out of memory and came back is another to its readers.
    let back = key("a");
    assert!(log.read_held(&back, &room, 0, 10, 1 << 20).is_none());
    assert!(log.read_wait(&back, &room, 0, 10).await.unwrap().iter().all(|event| event.room == back));
    assert!(log.read_held(&back, &room, 4, 2, 1 << 20).unwrap().iter().map(|event| event.seq).eq([5, 6]));
    assert!(log.shared.cache.bytes() > 0);
    for round in 1..12_u64 {
        append_told(&log, &a, round * 1000 + 1..=(round + 1) * 1000).await;
        log.housekeep().unwrap();
    }
    assert!(log.shared.generation(1).is_none());
    assert_eq!(log.shared.cache.bytes(), 0, "what was deleted is kept");
    assert!(log.read_held(&back, &room, 0, 10, 1 << 20).is_none());
}

#[tokio::test]
async fn a_request_opens_so_many_chunks_and_a_long_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[("log.read_cache_bytes", "0B")]).unwrap();
    let a = key("a");
    for seq in 1..=200 {
        append_told(&log, &a, seq..=seq).await;
    }
    let room = log.room(a.name()).unwrap();
    let some = reader::read(&log.shared, &a, &room, 0, 1000, usize::MAX).unwrap();
    assert!(some.len() < 100, "{} chunks opened by one request", some.len());
    check(&some, &a, 0, 1);
    let all = log.read_wait(&a, &room, 0, usize::MAX).await.unwrap();
    assert_eq!(all.len(), 200);
    check(&all, &a, 0, 1);
    let bytes: usize = all[..20].iter().map(|event| event.bytes()).sum();
    let within = log.read_within(&a, &room, 0, usize::MAX, bytes).await.unwrap();
    assert_eq!(within.len(), 20, "no further than so many bytes");
}

#[tokio::test]
async fn readers_that_stand_anywhere_do_not_have_every_generation_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[("log.generation_bytes", "1MiB"), ("log.read_cache_bytes", "0B")]).unwrap();
    let a = key("a");
    let mut last = 0;
    while log.status().generations < OPEN + 6 {
        append(&log, &a, last + 1..=last + 3, 200_000).await;
        last += 3;
    }
    let room = log.room(a.name()).unwrap();
    let open = || log.shared.sealed().iter().filter(|generation| generation.is_open()).count();
    for after in 0..last {
        assert_eq!(log.read_wait(&a, &room, after, 1).await.unwrap()[0].seq, after + 1);
        assert!(open() <= OPEN, "{} open", open());
    }
    assert_eq!(open(), OPEN);
}

proptest! {
    /// Counting by stretches against counting by places.
    #[test]
    fn a_room_is_counted_right_whatever_holes_it_has(
        runs in proptest::collection::vec((prop_oneof![4 => Just(0_u64), 1 => 1..50_u64], 1..20_u32), 1..40),
        shuffled in any::<bool>(),
        gone in 0..40_usize,
    ) {
        let mut places = Vec::new();
        let mut next = 1;
        for (position, (hole, count)) in (0_u64..).zip(&runs) {
            let (first, count) = (next + hole, *count);
            next = first + u64::from(count);
            places.push(Place { first, count, bytes: 1, generation: 1, offset: 5, position, arrived_ms: 1 });
        }
        let dir = tempfile::tempdir().unwrap();
        let sources = settings::Sources { flags: vec![("log.dir".into(), dir.path().display().to_string())], ..Default::default() };
        let index = Index::new(settings::Settings::load(&sources).unwrap().rooms);
        let name = RoomName::parse("a").unwrap();
        let mut order = places.clone();
        if shuffled {
            // As after copying: old events in new generations.
            order.sort_by_key(|place| place.position.wrapping_mul(0x9e37_79b9) % 64);
            order.iter().for_each(|place| index.restore(&name, 1, *place));
        }
        let room = index.get_or_create(&name, 1);
        if !shuffled {
            prop_assert!(order.iter().all(|place| room.append(*place) == 0));
        }
        let kept = &places[gone.min(places.len() - 1)..];
        room.release(kept[0].first);
        let seqs: Vec<u64> = kept.iter().flat_map(|place| place.first..=place.last()).collect();
        for count in 0..=seqs.len() + 2 {
            let before = if count == 0 { seqs[seqs.len() - 1] } else { seqs[seqs.len().saturating_sub(count)] - 1 };
            prop_assert_eq!(room.before_newest(count as u64), Some(before), "newest {}", count);
        }
        for after in 0..next + 2 {
            let expected = seqs.iter().filter(|seq| **seq > after).count() as u64;
            prop_assert_eq!(room.count_after(after), (expected, next - 1));
        }
    }
}
