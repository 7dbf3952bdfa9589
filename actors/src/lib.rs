//! Bounded priority mailboxes and supervised actors over ractor.
//!
//! ractor's own channel is unbounded and an actor of it costs about 7 KB. So a message that carries data never goes through
//! ractor here: it goes into a bounded [`Mailbox`] with four lanes, and ractor carries supervision and one coalesced wake. The same
//! [`Handler`] runs in two ways: as a ractor actor under a [`Supervisor`] (started again when it fails), or on the light
//! runner [`Light`], inside the task that owns a socket, for actors of which there are a hundred thousand.
//!
//! Where to begin reading: [`message`] (what travels), [`mailbox`] (the sending side), `state` (what happens under the one lock),
//! [`inbox`] (the taking side), [`handler`] and [`runner`] (who works on it), [`supervisor`] (who starts it again), [`testing`].
//!
//! This crate knows nothing of telemetry. What a message is, how long it may wait and what is given up when there is no room
//! for it is said by the message itself, through the [`Message`] trait.

pub mod budget;
pub mod census;
pub mod error;
pub mod handler;
pub mod inbox;
pub mod mailbox;
pub mod message;
pub mod runner;
pub mod shed;
mod state;
pub mod supervisor;
mod sync;
pub mod testing;
pub mod ticker;

pub use budget::Budget;
pub use census::Census;
pub use error::{Fault, Full, Refused};
pub use handler::{Flow, Handler};
pub use inbox::{Batch, Inbox, Level};
pub use mailbox::{Bounds, Counts, Depth, Mailbox, Offered, Told, Weak, Window};
pub use message::{Lane, Message, OnFull, Policy};
pub use runner::Light;
pub use shed::{Reason, Shed};
pub use supervisor::{Child, Restart, Supervisor};
