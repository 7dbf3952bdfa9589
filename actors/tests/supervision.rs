//! What runners and supervisors promise.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::Note;
use tidegate_actors::testing::TestSystem;
use tidegate_actors::{
    Batch, Bounds, Census, Child, Fault, Flow, Handler, Inbox, Lane, Light, Mailbox, OnFull, Restart, Window,
};
use tokio::sync::mpsc;

/// Passes on what it gets; fails at position 13, panics at 666.
struct Echo(mpsc::Sender<u64>);

impl Handler for Echo {
    type Message = Note;
    type Output = u64;

    async fn handle(&mut self, batch: &mut Batch<Note>, _: &mut Inbox<Note>) -> Result<Flow<u64>, Fault> {
        for note in batch.messages.drain(..) {
            match note.position {
                13 => return Err("thirteen".into()),
                666 => panic!("the number of the beast"),
                position => self.0.send(position).await?,
            }
        }
        Ok(Flow::Continue)
    }
}

fn note(position: u64) -> Note {
    Note::new(1, position, Lane::Normal, OnFull::Reject)
}

const QUICK: Restart = Restart {
    failures_max: 3,
    within: Duration::from_secs(60),
    pause_min: Duration::from_millis(1),
    pause_max: Duration::from_millis(4),
};

fn echo() -> (Mailbox<Note>, Child, mpsc::Receiver<u64>) {
    let (mailbox, _) = Mailbox::new(Bounds { messages: 100, bytes: usize::MAX });
    let (sender, receiver) = mpsc::channel(100);
    let window = Window { messages: 1, bytes: usize::MAX };
    let child = Child::new("echo", mailbox.clone(), window, move || Echo(sender.clone())).restart(QUICK);
    (mailbox, child, receiver)
}

#[tokio::test]
async fn a_failed_or_panicked_child_is_started_again_and_goes_on_with_its_mailbox() {
    let mut system = TestSystem::start().await.unwrap();
    system.expect_panics(1);
    let (mailbox, child, mut receiver) = echo();
    system.supervisor().spawn(child).await.unwrap();
    for position in [1, 13, 2, 666, 3] {
        mailbox.push(note(position)).unwrap();
    }
    for expected in [1, 2, 3] {
        assert_eq!(receiver.recv().await, Some(expected));
    }
    assert_eq!((system.census().failed(), system.census().restarted()), (2, 2));
    system.finish().await.unwrap();
}

#[tokio::test]
async fn a_child_that_fails_too_often_is_given_up_and_its_senders_are_refused() {
    let system = TestSystem::start().await.unwrap();
    let (mailbox, child, _receiver) = echo();
    let (told, mut given_up) = mpsc::channel(1);
    let child = child.gave_up(move |name| told.try_send(name.to_owned()).unwrap());
    system.supervisor().spawn(child).await.unwrap();
    for _ in 0..QUICK.failures_max {
        mailbox.push(note(13)).unwrap();
    }
    assert_eq!(given_up.recv().await.as_deref(), Some("echo"));
    assert!(mailbox.push(note(1)).is_err());
    assert_eq!(system.census().given_up(), 1);
    system.finish().await.unwrap();
}

#[tokio::test]
async fn a_stop_works_off_what_waits() {
    let system = TestSystem::start().await.unwrap();
    let (mailbox, child, mut receiver) = echo();
    for position in 20..40 {
        mailbox.push(note(position)).unwrap();
    }
    system.supervisor().spawn(child).await.unwrap();
    system.finish().await.unwrap();
    for expected in 20..40 {
        assert_eq!(receiver.try_recv(), Ok(expected));
    }
}

#[tokio::test]
async fn a_start_that_fails_is_told_to_whoever_asked_for_it() {
    struct Stillborn;
    impl Handler for Stillborn {
        type Message = Note;
        type Output = ();
        async fn started(&mut self) -> Result<(), Fault> {
            Err("no".into())
        }
        async fn handle(&mut self, _: &mut Batch<Note>, _: &mut Inbox<Note>) -> Result<Flow<()>, Fault> {
            Ok(Flow::Continue)
        }
    }
    let system = TestSystem::start().await.unwrap();
    let (mailbox, _) = Mailbox::new(Bounds { messages: 1, bytes: 1 });
    let outcome = system.supervisor().spawn(Child::new("stillborn", mailbox, Window::ALL, || Stillborn)).await;
    assert!(outcome.unwrap_err().to_string().contains("no"));
    system.finish().await.unwrap();
}

#[tokio::test]
async fn a_leaked_light_actor_fails_the_test_system() {
    tokio::time::pause();
    let system = TestSystem::start().await.unwrap();
    let (_mailbox, inbox) = Mailbox::new(Bounds { messages: 1, bytes: 1 });
    let (sender, _receiver) = mpsc::channel(1);
    let light = Light::start(Echo(sender), inbox, Window::ALL, system.census()).await.unwrap();
    tokio::time::resume();
    assert!(system.finish().await.unwrap_err().contains("leaked"));
    drop(light);
}

#[tokio::test]
async fn an_unexpected_panic_fails_the_test_system() {
    let system = TestSystem::start().await.unwrap();
    let (mailbox, child, mut receiver) = echo();
    system.supervisor().spawn(child).await.unwrap();
    mailbox.push(note(666)).unwrap();
    mailbox.push(note(1)).unwrap();
    assert_eq!(receiver.recv().await, Some(1));
    assert!(system.finish().await.unwrap_err().contains("panicked"));
}

#[tokio::test]
async fn the_same_handler_runs_on_the_light_runner() {
    struct Sum(Arc<AtomicU64>);
    impl Handler for Sum {
        type Message = Note;
        type Output = usize;
        async fn handle(&mut self, batch: &mut Batch<Note>, _: &mut Inbox<Note>) -> Result<Flow<usize>, Fault> {
            let taken = batch.messages.len();
            for note in batch.messages.drain(..) {
                self.0.fetch_add(note.position, Ordering::Relaxed);
            }
            Ok(if taken == 0 { Flow::Continue } else { Flow::Yield(taken) })
        }
    }
    let census = Census::default();
    let (mailbox, inbox) = Mailbox::new(Bounds { messages: 10, bytes: usize::MAX });
    let sum = Arc::new(AtomicU64::new(0));
    let mut light = Light::start(Sum(Arc::clone(&sum)), inbox, Window::ALL, &census).await.unwrap();
    for position in 1..=4 {
        mailbox.push(note(position)).unwrap();
    }
    assert_eq!(light.next().await.unwrap(), Some(4));
    mailbox.close();
    assert_eq!(light.next().await.unwrap(), None);
    assert_eq!((sum.load(Ordering::Relaxed), census.live()), (10, 1));
    drop(light);
    assert_eq!(census.live(), 0);
}

#[tokio::test]
async fn a_handler_that_does_not_look_at_notices_goes_on_after_them() {
    let system = TestSystem::start().await.unwrap();
    let (mailbox, _) = Mailbox::new(Bounds { messages: 1, bytes: usize::MAX });
    let (sender, mut receiver) = mpsc::channel(10);
    // Something is displaced before the actor begins.
    mailbox.push(Note::new(1, 1, Lane::Low, OnFull::Displace)).unwrap();
    mailbox.push(Note::new(2, 2, Lane::High, OnFull::Displace)).unwrap();
    let child = Child::new("echo", mailbox.clone(), Window::ALL, move || Echo(sender.clone()));
    system.supervisor().spawn(child).await.unwrap();
    assert_eq!(receiver.recv().await, Some(2));
    mailbox.push(note(3)).unwrap();
    assert_eq!(receiver.recv().await, Some(3));
    system.finish().await.unwrap();
}
