//! What can go wrong: a refused push gives the message back, a failed handler says why.

/// Why a push was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// No room for a message of this lane and policy now.
    #[error("the mailbox is full")]
    Full,
    /// No room came in the time allowed.
    #[error("the mailbox stayed full for as long as the sender may wait")]
    TimedOut,
    /// The mailbox takes nothing any more.
    #[error("the mailbox is closed")]
    Closed,
}

/// A refused message and why; the message is the sender's again.
#[derive(thiserror::Error)]
#[error("{why}")]
pub struct Refused<M> {
    /// The message, unchanged.
    pub message: M,
    /// Why it was refused.
    pub why: Full,
}

impl<M> std::fmt::Debug for Refused<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused").field("why", &self.why).finish_non_exhaustive()
    }
}

/// Why a handler failed. It ends the actor; its supervisor decides whether it is started again.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;
