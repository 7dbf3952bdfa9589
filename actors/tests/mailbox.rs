//! What a mailbox promises, one promise a test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::task::Context;
use std::time::Duration;

use common::Note;
use tidegate_actors::{Batch, Bounds, Full, Inbox, Lane, Level, Mailbox, Offered, OnFull, Reason, Window};

fn mailbox(messages: usize) -> (Mailbox<Note>, Inbox<Note>) {
    Mailbox::new(Bounds { messages, bytes: usize::MAX })
}

fn take(inbox: &mut Inbox<Note>) -> Batch<Note> {
    let mut batch = Batch::default();
    inbox.try_take(&mut batch, Window::ALL);
    batch
}

fn places(batch: &Batch<Note>) -> Vec<(u32, u64)> {
    batch.messages.iter().map(|note| (note.stream, note.position)).collect()
}

#[test]
fn a_higher_lane_is_served_first_and_a_lane_in_order() {
    let (mailbox, mut inbox) = mailbox(10);
    for (stream, lane) in [(1, Lane::Low), (2, Lane::Normal), (3, Lane::Critical), (4, Lane::High), (5, Lane::Normal)] {
        mailbox.push(Note::new(stream, 1, lane, OnFull::Reject)).unwrap();
    }
    assert_eq!(places(&take(&mut inbox)), [(3, 1), (4, 1), (2, 1), (5, 1), (1, 1)]);
}

#[test]
fn a_message_never_overtakes_an_earlier_one_of_its_stream() {
    let (mailbox, mut inbox) = mailbox(10);
    mailbox.push(Note::new(7, 1, Lane::Low, OnFull::Reject)).unwrap();
    mailbox.push(Note::new(8, 1, Lane::Normal, OnFull::Reject)).unwrap();
    mailbox.push(Note::new(7, 2, Lane::Normal, OnFull::Reject)).unwrap();
    mailbox.push(Note::new(7, 3, Lane::Critical, OnFull::Reject)).unwrap();
    // The critical one keeps its urgency: what must come before it is lifted.
    assert_eq!(places(&take(&mut inbox)), [(7, 1), (7, 2), (7, 3), (8, 1)]);
}

#[test]
fn a_full_mailbox_lets_the_oldest_of_the_lowest_lane_go_and_tells_exactly_which() {
    let (mailbox, mut inbox) = mailbox(3);
    for position in 1..=3 {
        mailbox.push(Note::new(1, position, Lane::Low, OnFull::Displace)).unwrap();
    }
    for position in 1..=2 {
        mailbox.push(Note::new(2, position, Lane::High, OnFull::Reject)).unwrap();
    }
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(2, 1), (2, 2), (1, 3)]);
    let shed = &batch.shed[0];
    assert_eq!((shed.stream, shed.from, shed.to, shed.count, shed.reason), (1, 1, 2, 2, Reason::Displaced));
    assert_eq!(batch.shed.len(), 1);
}

#[test]
fn displace_gives_up_the_oldest_of_its_own_lane() {
    let (mailbox, mut inbox) = mailbox(2);
    for position in 1..=5 {
        assert_eq!(mailbox.offer(Note::new(1, position, Lane::Normal, OnFull::Displace)), Offered::Queued);
    }
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(1, 4), (1, 5)]);
    assert_eq!((batch.shed[0].from, batch.shed[0].to, batch.shed[0].count), (1, 3, 3));
}

#[test]
fn what_was_lifted_gives_way_as_what_it_is() {
    let (mailbox, mut inbox) = mailbox(6);
    // One stream, in which every lane comes by turns: all wait in the critical lane then, because each comes before a critical one.
    for (position, lane) in (1..=9).zip([Lane::Low, Lane::Normal, Lane::Critical].into_iter().cycle()) {
        mailbox.push(Note::new(1, position, lane, OnFull::Displace)).unwrap();
    }
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [2, 3, 5, 6, 8, 9].map(|position| (1, position)), "the low ones went, whoever came");
    assert_eq!(
        batch.shed.iter().map(|run| (run.from, run.lane)).collect::<Vec<_>>(),
        [1, 4, 7].map(|at| (at, Lane::Low))
    );
    // Nothing is left of it: what comes now is lifted out of nothing.
    for position in 10..=16 {
        mailbox.push(Note::new(1, position, Lane::Normal, OnFull::Displace)).unwrap();
    }
    assert_eq!(places(&take(&mut inbox)), (11..=16).map(|position| (1, position)).collect::<Vec<_>>());
}

#[test]
fn reject_gives_the_message_back() {
    let (mailbox, _inbox) = mailbox(1);
    mailbox.push(Note::new(1, 1, Lane::Normal, OnFull::Reject)).unwrap();
    let refused = mailbox.push(Note::new(1, 2, Lane::Normal, OnFull::Reject)).unwrap_err();
    assert_eq!((refused.why, refused.message.position), (Full::Full, 2));
}

#[test]
fn an_offer_that_is_rejected_is_told_to_the_reader() {
    let (mailbox, mut inbox) = mailbox(1);
    mailbox.push(Note::new(1, 1, Lane::Normal, OnFull::Reject)).unwrap();
    assert_eq!(mailbox.offer(Note::new(1, 2, Lane::Normal, OnFull::Reject)), Offered::Shed);
    let batch = take(&mut inbox);
    assert_eq!((batch.shed[0].from, batch.shed[0].to, batch.shed[0].reason), (2, 2, Reason::Rejected));
}

#[test]
fn catch_up_loses_nothing_the_reader_is_told_where_to_read_on() {
    let (mailbox, mut inbox) = mailbox(3);
    for position in 10..=20 {
        mailbox.offer(Note::new(1, position, Lane::Normal, OnFull::CatchUp));
    }
    let batch = take(&mut inbox);
    assert!(batch.messages.is_empty() && batch.shed.is_empty());
    assert_eq!(batch.behind, [(1, 9)]);
    assert_eq!(inbox.level(&1, 15), Level::Behind(20));
    assert_eq!(mailbox.offer(Note::new(1, 21, Lane::Normal, OnFull::CatchUp)), Offered::Behind);
    assert_eq!(inbox.level(&1, 21), Level::Live);
    assert_eq!(mailbox.offer(Note::new(1, 22, Lane::Normal, OnFull::CatchUp)), Offered::Queued);
    assert_eq!(places(&take(&mut inbox)), [(1, 22)]);
}

#[test]
fn the_fullest_stream_of_the_lowest_lane_falls_behind_first() {
    let (mailbox, mut inbox) = mailbox(4);
    mailbox.offer(Note::new(1, 1, Lane::Critical, OnFull::CatchUp));
    mailbox.offer(Note::new(2, 1, Lane::Normal, OnFull::CatchUp));
    mailbox.offer(Note::new(3, 1, Lane::Normal, OnFull::CatchUp));
    mailbox.offer(Note::new(3, 2, Lane::Normal, OnFull::CatchUp));
    assert_eq!(mailbox.offer(Note::new(1, 2, Lane::Critical, OnFull::CatchUp)), Offered::Queued);
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(1, 1), (1, 2), (2, 1)]);
    assert_eq!(batch.behind, [(3, 0)]);
}

#[test]
fn a_newer_value_of_a_key_takes_the_place_of_the_waiting_one() {
    let (mailbox, mut inbox) = mailbox(10);
    for (position, key) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
        mailbox.push(Note::new(1, position, Lane::Normal, OnFull::CatchUp).keyed(key)).unwrap();
    }
    assert_eq!(mailbox.counts().conflated, 2);
    assert_eq!(places(&take(&mut inbox)), [(1, 2), (1, 4)]);
}

#[test]
fn the_bound_in_bytes_counts_too_but_one_heavy_message_passes() {
    let (mailbox, mut inbox) = Mailbox::new(Bounds { messages: 10, bytes: 100 });
    let heavy = |position, bytes| Note { bytes, ..Note::new(1, position, Lane::Normal, OnFull::Reject) };
    mailbox.push(heavy(1, 60)).unwrap();
    assert_eq!(mailbox.push(heavy(2, 60)).unwrap_err().why, Full::Full);
    take(&mut inbox);
    mailbox.push(heavy(3, 500)).unwrap();
    assert_eq!(places(&take(&mut inbox)), [(1, 3)]);
    assert_eq!(mailbox.depth().bytes, 0);
}

#[test]
fn a_closed_mailbox_refuses_and_still_hands_out_what_it_holds() {
    let (mailbox, mut inbox) = mailbox(10);
    mailbox.push(Note::new(1, 1, Lane::Normal, OnFull::Reject)).unwrap();
    mailbox.close();
    assert_eq!(mailbox.push(Note::new(1, 2, Lane::Normal, OnFull::Reject)).unwrap_err().why, Full::Closed);
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(1, 1)]);
    assert!(batch.closed);
}

#[test]
fn a_detached_mailbox_keeps_collecting_for_its_next_reader() {
    let (mailbox, inbox) = mailbox(2);
    assert!(mailbox.attach().is_none(), "there is a reader");
    drop(inbox);
    for position in 1..=3 {
        mailbox.offer(Note::new(1, position, Lane::Normal, OnFull::Displace));
    }
    let mut inbox = mailbox.attach().unwrap();
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(1, 2), (1, 3)]);
    assert_eq!(batch.shed[0].count, 1);
}

#[test]
fn a_forgotten_stream_leaves_no_message_and_no_notice() {
    let (mailbox, mut inbox) = mailbox(2);
    for position in 1..=5 {
        mailbox.offer(Note::new(1, position, Lane::Normal, OnFull::CatchUp));
    }
    mailbox.offer(Note::new(2, 1, Lane::Normal, OnFull::CatchUp));
    mailbox.forget(&1);
    let batch = take(&mut inbox);
    assert_eq!(places(&batch), [(2, 1)]);
    assert!(batch.behind.is_empty() && batch.shed.is_empty());
}

#[test]
fn a_sleeping_reader_is_woken_once_however_many_messages_come() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Counter(AtomicUsize);
    impl std::task::Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (mailbox, mut inbox) = mailbox(10);
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Arc::clone(&counter).into();
    let mut batch = Batch::default();
    assert!(inbox.poll_take(&Context::from_waker(&waker), &mut batch, Window::ALL).is_pending());
    for position in 1..=5 {
        mailbox.push(Note::new(1, position, Lane::Normal, OnFull::Reject)).unwrap();
    }
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_window_takes_a_part_and_leaves_the_rest_in_order() {
    let (mailbox, mut inbox) = mailbox(10);
    for position in 1..=5 {
        mailbox.push(Note::new(1, position, Lane::Normal, OnFull::Reject)).unwrap();
    }
    let mut batch = Batch::default();
    inbox.try_take(&mut batch, Window { messages: 3, bytes: usize::MAX });
    assert_eq!(places(&batch), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(places(&take(&mut inbox)), [(1, 4), (1, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_gets_in_when_there_is_room_and_gives_up_at_its_limit() {
    let (mailbox, mut inbox) = mailbox(1);
    let wait = |position| Note::new(1, position, Lane::Normal, OnFull::Wait);
    mailbox.push(wait(1)).unwrap();
    let refused = mailbox.push_wait(wait(2), Duration::from_millis(10)).await.unwrap_err();
    assert_eq!((refused.why, refused.message.position), (Full::TimedOut, 2));

    let sender = tokio::spawn({
        let mailbox = mailbox.clone();
        async move { mailbox.push_wait(wait(3), Duration::from_secs(60)).await.is_ok() }
    });
    tokio::task::yield_now().await;
    assert_eq!(places(&take(&mut inbox)), [(1, 1)]);
    assert!(sender.await.unwrap());
    assert_eq!(places(&take(&mut inbox)), [(1, 3)]);
}

#[test]
fn what_belongs_to_no_stream_is_never_displaced() {
    struct Alone(bool);
    impl tidegate_actors::Message for Alone {
        type Stream = ();
        fn stream(&self) -> Option<&()> {
            self.0.then_some(&())
        }
        fn policy(&self) -> tidegate_actors::Policy {
            tidegate_actors::Policy::on_full(OnFull::Displace)
        }
    }
    let (mailbox, mut inbox) = Mailbox::new(Bounds { messages: 2, bytes: usize::MAX });
    mailbox.push(Alone(false)).unwrap();
    mailbox.push(Alone(true)).unwrap();
    mailbox.push(Alone(true)).unwrap();
    let mut batch = Batch::default();
    inbox.try_take(&mut batch, Window::ALL);
    assert_eq!(batch.messages.iter().map(|message| message.0).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_mailbox_closes_only_if_nothing_waits_where_that_is_asked() {
    let (mailbox, mut inbox) = mailbox(2);
    mailbox.push(Note::new(1, 1, Lane::Normal, OnFull::Reject)).unwrap();
    assert!(!mailbox.close_if_empty() && !mailbox.is_closed());
    take(&mut inbox);
    assert!(mailbox.close_if_empty() && mailbox.is_closed());
}
