//! Going on elsewhere: a session takes its rooms, its mailbox and its books to another socket, or to none, in another dialect.

use std::sync::Arc;

use super::super::Dialect;
use super::Session;
use crate::engine::connections::profile::Profile;
use crate::metrics::record::TransportMeter;

impl<D: Dialect> Session<D> {
    /// The same reader in another dialect. What waits in its mailbox stays; what its old dialect had gathered was meant for the old socket and goes with it.
    pub fn moved<E: Dialect>(
        mut self,
        dialect: E,
        meter: &'static TransportMeter,
        profile: Arc<Profile>,
    ) -> Session<E> {
        self.moved = true;
        meter.opened();
        // What is still to be read or let go is looked for though nothing new comes.
        self.subscriber.mailbox.tick();
        Session {
            rooms: self.rooms.clone(),
            subscriber: Arc::clone(&self.subscriber),
            profile,
            dialect,
            meter,
            follows: std::mem::take(&mut self.follows),
            behind: std::mem::take(&mut self.behind),
            shed: std::mem::take(&mut self.shed),
            rooms_max: self.rooms_max,
            alone: self.alone,
            reading: self.reading,
            turn: self.turn,
            closing: None,
            contracts: self.contracts.take(),
            alarm: self.alarm.take(),
            left_out: self.left_out.take(),
            moved: false,
            left_due: self.left_due,
            asked: std::mem::take(&mut self.asked),
        }
    }
}
