//! How messages leave: one module for each channel, one trait for all.

pub mod email;
pub mod file;
pub mod simulated;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::{audit::Smtp, template::Rendered};

/// One message, ready to leave.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The address as the event gave it; the channel checks it.
    pub recipient: String,
    /// The words.
    pub rendered: Rendered,
    /// The same for every attempt at this delivery.
    pub message_id: String,
}

/// A way for messages to leave.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Checks what the message can't change about itself: its address.
    ///
    /// # Errors
    /// What is wrong; trying again can't help.
    fn check_recipient(&self, address: &str) -> Result<(), String>;

    /// Waits until a message could leave at once. What is down is waited for here, before
    /// anything was claimed, so no attempt is burned.
    async fn ready(&self) -> Box<dyn Slot>;
}

/// The place for one message, such as a connection that is open and logged in.
#[async_trait]
pub trait Slot: Send {
    /// Sends one message. `latch` is awaited right before the point of no return; unless it gives
    /// `true`, nothing goes out.
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome;
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted.
    Sent(Option<Smtp>),
    /// It would have been sent.
    Simulated,
    /// The server refused this message or this recipient.
    Refused {
        /// Its words.
        reply: Smtp,
        /// Whether trying again is pointless (5xx).
        permanent: bool,
    },
    /// The server or our settings are at fault, not this message: no attempt was made.
    Unavailable(String, Option<Smtp>),
    /// The connection broke before the message was complete: it can't have been accepted.
    Interrupted(String),
    /// The message was complete and no reply was read: nobody can tell.
    Unknown(String),
    /// The message can't be made or can't leave this way; the event is at fault.
    Impossible(String),
    /// The latch did not give its consent: nothing went out.
    Withheld,
}
