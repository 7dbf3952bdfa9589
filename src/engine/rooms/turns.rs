//! Turns in reading history: so many readers that came back at once take a step, then whatever else is due runs, then the next so many.
//!
//! Without it a storm of readers would all be woken together, and a live event's reader would wait behind a write of each. Bound: a reader waits here at most once, so there are at most as many
//! as readers. Nobody holds a turn: it is the right to one step now, so none can be lost with a reader that goes or whose socket is full. Cost: a lock for each step of up to 128 KiB,
//! and a wake where others wait.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_actors::{Mailbox, Weak};
use tokio::runtime::Handle;

use crate::engine::connections::{Control, Delivery};

/// Steps between two looks at what else is due, for each of the runtime's threads.
const AT_ONCE: usize = 2;

/// Who may take a step in history now. Clones share it.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Given since everything else had its turn.
    given: usize,
    /// Whether a task runs that gives out more.
    running: bool,
    waiting: VecDeque<Weak<Delivery>>,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("waiting", &self.0.lock().waiting.len()).finish_non_exhaustive()
    }
}

impl Turns {
    /// Whether a reader may take a step now. If not, its mailbox gets [`Control::ReadAgain`] when it may.
    pub fn take(&self, mailbox: &Mailbox<Delivery>) -> bool {
        let at_once = at_once();
        let mut state = self.0.lock();
        let granted = state.given < at_once && state.waiting.is_empty();
        if granted {
            state.given += 1;
        } else {
            state.waiting.push_back(mailbox.downgrade());
        }
        if !std::mem::replace(&mut state.running, true) {
            drop(state);
            // One at a time; it ends when nobody waits.
            tokio::spawn(give_out(self.clone(), at_once));
        }
        granted
    }
}

fn at_once() -> usize {
    AT_ONCE * Handle::current().metrics().num_workers()
}

async fn give_out(turns: Turns, at_once: usize) {
    loop {
        // Behind everything that is due now, those who were given the last turns too.
        tokio::task::yield_now().await;
        let next: Vec<_> = {
            let mut state = turns.0.lock();
            if state.waiting.is_empty() {
                // A task for each step would be more than a lock.
                if state.given == 0 {
                    state.running = false;
                    return;
                }
                state.given = 0;
                continue;
            }
            let next = state.waiting.len().min(at_once);
            state.given = next;
            state.waiting.drain(..next).collect()
        };
        for mailbox in next.iter().filter_map(Weak::upgrade) {
            // Fails only when the reader has gone.
            let _ = mailbox.answer(Delivery::Control(Box::new(Control::ReadAgain)));
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_actors::{Bounds, Inbox};
    use tokio::task::yield_now;

    use super::*;

    fn reader() -> (Mailbox<Delivery>, Inbox<Delivery>) {
        Mailbox::new(Bounds { messages: 8, bytes: 1 << 20 })
    }

    #[tokio::test]
    async fn a_storm_takes_its_steps_so_many_at_a_time_and_others_run_in_between() {
        let turns = Turns::default();
        let readers: Vec<_> = (0..20).map(|_| reader()).collect();
        let granted = readers.iter().filter(|(mailbox, _)| turns.take(mailbox)).count();
        assert_eq!(granted, AT_ONCE);
        let mut woken = Vec::new();
        for _ in 0..100 {
            woken.push(readers.iter().filter(|(mailbox, _)| mailbox.depth().messages == 1).count());
            yield_now().await;
        }
        assert!(woken.windows(2).all(|pair| pair[1] - pair[0] <= AT_ONCE), "{woken:?}");
        assert_eq!(woken.last(), Some(&(20 - AT_ONCE)));
        // Nobody waits any more: who comes now goes on at once.
        assert!(turns.take(&readers[0].0) && !turns.0.lock().waiting.iter().any(|_| true));
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_holds_up_nobody() {
        let turns = Turns::default();
        let mut readers: Vec<_> = (0..10).map(|_| reader()).collect();
        assert_eq!(readers.iter().filter(|(mailbox, _)| turns.take(mailbox)).count(), AT_ONCE);
        let last = readers.remove(9);
        drop(readers);
        while last.0.depth().messages == 0 {
            yield_now().await;
        }
    }
}
