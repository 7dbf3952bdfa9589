//! Periods: one small task wakes a mailbox again and again, for as long as the mailbox lives. For the few actors that need it; a hundred thousand connections do not.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::{Mailbox, Message};

/// Ticks a mailbox every `period`, first at once, until it is closed or gone. Ticks that its reader has not seen yet become one.
pub fn every<M: Message>(period: Duration, mailbox: &Mailbox<M>) {
    let mailbox = mailbox.downgrade();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match mailbox.upgrade() {
                Some(mailbox) if !mailbox.is_closed() => mailbox.tick(),
                _ => return,
            }
        }
    });
}
