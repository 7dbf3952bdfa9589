//! What the log promises.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use tidegate_actors::Policy;

use super::*;
use crate::clock;
use crate::event::{NewEvent, Parts};
use crate::settings::{Settings, Sources};

pub(super) const LIMIT: Duration = Duration::from_secs(10);

fn settings(dir: &Path, more: &[(&str, &str)]) -> Settings {
    let mut flags = vec![("log.dir".to_owned(), dir.display().to_string())];
    flags.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::load(&Sources { flags, ..Sources::default() }).unwrap()
}

pub(super) fn open(dir: &Path, more: &[(&str, &str)]) -> Result<Log, LogError> {
    let settings = settings(dir, more);
    Log::open(&settings.log, &settings.rooms)
}

pub(super) fn key(name: &str) -> RoomKey {
    RoomKey::new(RoomName::parse(name).unwrap(), Policy::default())
}

/// Appends events with these seqs and waits until they are logged.
pub(super) async fn append(
    log: &Log,
    key: &RoomKey,
    seqs: std::ops::RangeInclusive<u64>,
    bytes: usize,
) -> Arc<RoomIndex> {
    let room = log.room_or_create(key.name(), *seqs.start());
    let data = format!("\"{}\"", "x".repeat(bytes));
    let events = seqs.map(|seq| {
        Arc::new(Event::number(key, seq, clock::now_ms(), clock::now_us(), NewEvent::new("k", data.clone().into())))
    });
    let done = log.append(&room, events.collect(), Ack::Logged).await.unwrap();
    done.unwrap().await.unwrap();
    room
}

pub(super) async fn seqs(log: &Log, key: &RoomKey, after: u64) -> Vec<u64> {
    let Some(room) = log.room(key.name()) else { return Vec::new() };
    log.read_wait(key, &room, after, 1_000_000).await.unwrap().iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn what_was_logged_is_read_back_whole_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (key("a"), key("b:1"));
    let log = open(dir.path(), &[]).unwrap();
    append(&log, &a, 100..=150, 200).await;
    append(&log, &b, 7..=7, 50_000).await;
    let parts = Parts {
        seq: 8,
        arrived_ms: 1,
        timestamp_ms: 99,
        priority: tidegate_actors::Lane::Critical,
        kind: "ä\"",
        key: Some("k"),
        id: Some("i"),
        change: true,
        data: b"[1, null]",
    };
    let special = Arc::new(Event::new(&b, &parts));
    let room = log.room(b.name()).unwrap();
    log.append(&room, smallvec::smallvec![Arc::clone(&special)], Ack::Synced).await.unwrap().unwrap().await.unwrap();
    assert!(log.close(LIMIT));
    let log = open(dir.path(), &[]).unwrap();
    assert!(log.was_clean());
    assert_eq!(seqs(&log, &a, 0).await, (100..=150).collect::<Vec<_>>());
    assert_eq!(seqs(&log, &a, 149).await, [150]);
    let read = log.read_wait(&b, &log.room(b.name()).unwrap(), 7, 10).await.unwrap();
    assert_eq!((read[0].json(), read[0].timestamp_ms, read[0].id.as_deref()), (special.json(), 99, Some("i")));
    let held = log.room(a.name()).unwrap().held().unwrap();
    assert_eq!((held.created, held.first, held.last, held.count), (100, 100, 150, 51));
}

#[tokio::test]
async fn a_stop_that_was_none_is_told_and_loses_nothing_that_was_logged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[]).unwrap();
    append(&log, &key("a"), 1..=10, 10).await;
    // Dropped without a close: the writer finishes by itself, but leaves no mark.
    let thread = log.writer.lock().take().unwrap();
    drop(log);
    thread.join().unwrap();
    // The readers' threads let go of the directory a moment later.
    let log = loop {
        match open(dir.path(), &[]) {
            Err(LogError::Locked { .. }) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert!(!log.was_clean());
    assert_eq!(seqs(&log, &key("a"), 0).await.len(), 10);
}

#[tokio::test]
async fn a_second_opening_is_refused_while_the_first_lives() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[]).unwrap();
    assert!(matches!(open(dir.path(), &[]), Err(LogError::Locked { .. })));
    append(&log, &key("a"), 1..=1, 10).await;
}

#[tokio::test]
async fn what_is_left_of_a_deleted_generation_is_cleared_away_and_hinders_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[]).unwrap();
    append(&log, &key("a"), 1..=10, 200).await;
    assert!(log.close(LIMIT));
    drop(log);
    // Killed after its first file was deleted.
    let left = dir.path().join("gen-00000009.gone");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("conf"), "something").unwrap();
    let log = open(dir.path(), &[]).unwrap();
    assert!(!left.exists() && log.room(key("a").name()).is_some());
}

#[tokio::test]
async fn a_foreign_directory_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    assert!(matches!(open(dir.path(), &[]), Err(LogError::Foreign { found, .. }) if found == "thesis.txt"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_log_that_was_cut_is_damage_and_not_a_fresh_start() {
    for spoil in [
        |path: &Path| std::fs::remove_dir_all(path).unwrap(),
        |path: &Path| std::fs::File::create(path.join("db")).unwrap().set_len(0).unwrap(),
        |path: &Path| std::fs::write(path.join("db"), vec![0x5a; 1 << 20]).unwrap(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), &[]).unwrap();
        append(&log, &key("a"), 1..=1000, 200).await;
        assert!(log.close(LIMIT));
        drop(log);
        spoil(&dir.path().join("gen-00000001"));
        let error = open(dir.path(), &[]).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn retention_by_count_keeps_exactly_so_many_and_says_where_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[("rooms.default.retention_count", "25")]).unwrap();
    let room = append(&log, &key("a"), 1..=100, 10).await;
    log.housekeep().unwrap();
    assert_eq!(seqs(&log, &key("a"), 0).await, (76..=100).collect::<Vec<_>>());
    assert!(!room.continues(0) && !room.continues(74) && room.continues(75) && room.continues(100));
}

#[tokio::test]
async fn what_a_sink_needs_stays_whatever_retention_says_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let more = [
        ("sink.database_url", "postgres://db/x"),
        ("rooms.default.retention_count", "25"),
        ("rooms.default.retention_age", "1ms"),
    ];
    let log = open(dir.path(), &more).unwrap();
    let (needed, other) = (key("well:1"), key("other"));
    append(&log, &needed, 1..=100, 10).await;
    let room = append(&log, &other, 1..=100, 10).await;
    while room.held().is_some() {
        log.housekeep().unwrap();
    }
    assert!(log.close(LIMIT));
    drop((room, log));
    let log = open(dir.path(), &more).unwrap();
    log.housekeep().unwrap();
    assert_eq!(seqs(&log, &needed, 0).await, (1..=100).collect::<Vec<_>>());
    let room = log.room(needed.name()).unwrap();
    assert_eq!(room.held().map(|held| (held.first, held.count)), Some((1, 100)));
    room.needs_after("nobody", 100);
    // Retention by count would begin with the 76th.
    room.needs_after("wells", 60);
    assert_eq!(room.held().map(|held| (held.first, held.count)), Some((61, 40)));
    room.needs_after("wells", 90);
    assert_eq!(room.held().map(|held| (held.first, held.count, room.gone_count())), Some((76, 25, 75)));
    room.needs_after("wells", 100);
    while room.held().is_some() {
        log.housekeep().unwrap();
    }
}

#[tokio::test]
async fn retention_by_age_lets_everything_go_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[("rooms.default.retention_age", "1ms")]).unwrap();
    let room = append(&log, &key("a"), 1..=10, 10).await;
    while room.held().is_some() {
        log.housekeep().unwrap();
    }
    assert!(seqs(&log, &key("a"), 0).await.is_empty());
    drop(room);
    // The numbers stay spent. The reader's thread may hold the room a moment longer.
    while log.floor() != 10 {
        log.housekeep().unwrap();
    }
}

#[tokio::test]
async fn the_disk_stays_flat_while_a_quiet_room_keeps_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let more =
        [("log.generation_bytes", "1MiB"), ("rooms.hot.retention_count", "2000"), ("rooms.quiet.retention_count", "0")];
    let log = open(dir.path(), &more).unwrap();
    let quiet = key("quiet:1");
    append(&log, &quiet, 1..=5, 200).await;
    let mut most = 0;
    for round in 0_u64..60 {
        append(&log, &key("hot:1"), round * 1000 + 1..=(round + 1) * 1000, 200).await;
        let working = log.clone();
        tokio::task::spawn_blocking(move || working.housekeep()).await.unwrap().unwrap();
        most = most.max(log.status().generations);
    }
    // 12 MB went through; 2,000 hot events are 0.4 MB.
    assert!(most <= 4, "{most} generations");
    assert_eq!(seqs(&log, &quiet, 0).await, [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&log, &key("hot:1"), 0).await.len(), 2000);
    assert!(log.close(LIMIT));
    drop(log);
    let log = open(dir.path(), &more).unwrap();
    assert_eq!(seqs(&log, &quiet, 0).await, [1, 2, 3, 4, 5]);
    assert_eq!(seqs(&log, &key("hot:1"), 0).await.len(), 2000);
}

#[tokio::test]
async fn over_its_budget_the_log_lets_the_oldest_go_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(
        dir.path(),
        &[("log.generation_bytes", "1MiB"), ("log.bytes_max", "4MiB"), ("rooms.default.retention_bytes", "0")],
    )
    .unwrap();
    for round in 0_u64..10 {
        append(&log, &key("a"), round * 5000 + 1..=(round + 1) * 5000, 200).await;
        log.housekeep().unwrap();
        assert!(log.status().bytes <= 6 << 20, "{:?}", log.status());
    }
    let held = seqs(&log, &key("a"), 0).await;
    assert_eq!(*held.last().unwrap(), 50_000);
    assert!(held.len() < 40_000 && held.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[tokio::test]
async fn a_hole_in_the_numbers_is_kept_apart_from_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &[]).unwrap();
    append(&log, &key("a"), 1..=10, 10).await;
    let room = append(&log, &key("a"), 1000..=1010, 10).await;
    assert_eq!(seqs(&log, &key("a"), 10).await, (1000..=1010).collect::<Vec<_>>());
    assert!(room.continues(10) && room.continues(1000) && room.continues(0));
    assert!(!room.continues(500), "a number that was never given out");
    assert_eq!((room.before_newest(3), room.before_newest(12), room.before_newest(99)), (Some(1007), Some(9), Some(0)));
}
