//! How messages leave: one module for each channel, one trait for all.

mod circuit_breaker;
pub mod email;
pub mod file;
pub mod simulated;
pub mod sms;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, civil::Date};

use crate::{audit::Smtp, event::Attachment, routing::CalendarMethod, template::Rendered};

/// One message, ready to leave.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The address as the event gave it; the channel checks it.
    pub recipient: String,
    /// The words.
    pub rendered: Rendered,
    /// The same for every attempt at this delivery.
    pub message_id: String,
    /// What goes with the words.
    pub extras: Extras,
}

/// What a message carries beside its words; most carry nothing.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Where answers go, as the event gave it. An address that can't be used is left out: it is no
    /// reason to keep the message back.
    pub reply_to: Option<String>,
    /// Files.
    pub attachments: Vec<Attachment>,
    /// A code to draw where the HTML shows the image `cid:<name>`.
    pub qr: Option<QrCode>,
    /// What the recipient's calendar is told.
    pub calendar: Option<CalendarEntry>,
}

/// A QR code to be drawn.
#[derive(Debug, Clone)]
pub struct QrCode {
    /// The name by which the HTML refers to it.
    pub name: String,
    /// What a scanner reads.
    pub text: String,
}

/// A version of a calendar entry.
#[derive(Debug, Clone)]
pub struct CalendarEntry {
    /// What becomes of it.
    pub method: CalendarMethod,
    /// Names it among those of this sender.
    pub uid: String,
    /// Counts its versions.
    pub sequence: i32,
    /// When this version came to be.
    pub stamp: Timestamp,
    /// Its title, in one line; may be empty.
    pub summary: String,
    /// Where it takes place, in one line; may be empty.
    pub location: String,
    /// When it takes place.
    pub time: Option<CalendarTime>,
}

/// How long a calendar entry lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarTime {
    /// On the clock of wherever the reader is: no zone is known (RFC 5545 3.3.5, form 1).
    Clock {
        /// Its start.
        start: jiff::civil::DateTime,
        /// Its end.
        end: jiff::civil::DateTime,
    },
    /// The whole day.
    Day(Date),
    /// A part of a day.
    Hours {
        /// Its first moment.
        start: Timestamp,
        /// The first moment after it.
        end: Timestamp,
    },
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
    /// This recipient can't be reached through this server; it was not asked.
    Unreachable(String),
    /// The latch did not give its consent: nothing went out.
    Withheld,
}

impl Outcome {
    /// What the server said.
    pub fn reply(&self) -> Option<&Smtp> {
        match self {
            Self::Sent(reply) | Self::Unavailable(_, reply) => reply.as_ref(),
            Self::Refused { reply, .. } => Some(reply),
            _ => None,
        }
    }
}
