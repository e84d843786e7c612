//! Channels: one module for each way to send a message, one trait for all.

mod circuit_breaker;
pub mod email;
pub mod file;
pub(crate) mod replaceable;
pub mod simulated;
pub mod sms;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, civil::Date};

use crate::{audit::Smtp, event::Attachment, routing::CalendarMethod, template::Rendered};

/// One message, ready to leave.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The address as the event has it; [`Channel::check_recipient`] checks it.
    pub recipient: String,
    pub rendered: Rendered,
    /// The same for every attempt at this delivery.
    pub message_id: String,
    /// Its date, where it repeats an earlier attempt or may be repeated; `None`: now.
    pub date: Option<Timestamp>,
    pub extras: Extras,
}

impl Outgoing {
    /// About how large it is.
    pub(crate) fn bytes(&self) -> usize {
        let files: usize = self.extras.attachments.iter().map(|file| file.content.len()).sum();
        self.rendered.html.len() + self.rendered.text.len() + files
    }
}

/// What a message carries beside subject, text and HTML.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// The `Reply-To` address as the event has it. An unusable address is left out and does not keep the
    /// message back.
    pub reply_to: Option<String>,
    /// The sender of the mail's brand, instead of that of all mail.
    pub sender: Option<Arc<email::Sender>>,
    pub attachments: Vec<Attachment>,
    /// Drawn where the HTML shows the image `cid:<name>`.
    pub qr: Option<QrCode>,
    pub calendar: Option<CalendarEntry>,
}

#[derive(Debug, Clone)]
pub struct QrCode {
    /// The image's name in the HTML.
    pub name: String,
    pub png: Vec<u8>,
}

/// A version of a calendar entry.
#[derive(Debug, Clone)]
pub struct CalendarEntry {
    pub method: CalendarMethod,
    /// Unique among the entries of this sender.
    pub uid: String,
    /// Version number, from 0.
    pub sequence: i32,
    /// When this version was made.
    pub stamp: Timestamp,
    /// Title in one line; may be empty.
    pub summary: String,
    /// Place in one line; may be empty.
    pub location: String,
    pub time: Option<CalendarTime>,
}

/// Start and end of a calendar entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarTime {
    /// Local time of the reader, where no zone is known (RFC 5545 3.3.5, form 1).
    Clock { start: jiff::civil::DateTime, end: jiff::civil::DateTime },
    /// A whole day.
    Day(Date),
    Hours {
        start: Timestamp,
        /// Exclusive.
        end: Timestamp,
    },
}

/// What a message needs of a place.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotRequest<'a> {
    pub route: &'a str,
    /// The only relays that its brand allows; empty: any.
    pub relays: &'a [String],
    /// A retry is not what a server that failed is tried with, while another works.
    pub is_retry: bool,
    /// The relay that may have the message already, so that no other one gets it.
    pub relay: Option<&'a str>,
    /// Relays that can't take the message.
    pub except: &'a [String],
}

/// A way to send messages.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Checks the address.
    ///
    /// # Errors
    /// The reason. Trying again can't help.
    fn check_recipient(&self, address: &str) -> Result<(), String>;

    /// Waits until a message can be sent at once. A server that is down is waited for here, before the
    /// delivery is claimed, so no attempt is used up.
    async fn ready(&self, request: SlotRequest<'_>) -> Box<dyn Slot>;

    /// Connects once, so that health knows the servers.
    async fn check(&self) {
        drop(self.ready(SlotRequest::default()).await);
    }

    /// Says goodbye to the servers, once nothing more is to be sent.
    async fn close(&self) {}
}

/// A place for one message, such as a connection that is open and logged in.
#[async_trait]
pub trait Slot: Send {
    /// The relay that it is on, where there are several.
    fn relay(&self) -> Option<&str> {
        None
    }

    /// How long its server recognises a mail that comes again, by the idempotency key.
    fn idempotency_window(&self) -> Option<Duration> {
        None
    }

    /// Sends one message. `latch` is awaited right before the body goes out; unless it gives `true`,
    /// nothing goes out.
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted;
}

/// One attempt: what was composed, if anything was, and what became of it.
#[derive(Debug)]
pub struct Attempted {
    pub outcome: Outcome,
    pub mail: Option<MailSeal>,
}

/// What identifies a mail as it went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSeal {
    pub from_address: String,
    pub from_name: String,
    /// SHA-256 of headers and body in hex, before dots are doubled.
    pub sha256: String,
}

impl From<Outcome> for Attempted {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, mail: None }
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server accepted the message.
    Sent(Option<Smtp>),
    /// Everything but the sending was done.
    Simulated,
    /// The server refused this message or this recipient.
    Refused {
        reply: Smtp,
        /// Whether trying again is pointless (such as after a 5xx).
        permanent: bool,
    },
    /// The server or our settings are at fault, not this message: no attempt was made.
    Unavailable(String, Option<Smtp>),
    /// The connection broke before the message was complete: it can't have been accepted.
    Interrupted(String, Option<Smtp>),
    /// The message was complete and no reply was read that says yes or no: nobody can tell whether it
    /// was accepted.
    Unknown(String, Option<Smtp>),
    /// The message can't be composed or not sent over this channel. The event is at fault.
    Impossible(String),
    /// This server can't reach the recipient, as its capabilities show. It was not asked.
    Unreachable(String),
    /// This relay does not take the message, and another one may. No attempt was made.
    Elsewhere,
    /// The latch was refused: nothing went out.
    Withheld,
}

impl Outcome {
    pub fn reply(&self) -> Option<&Smtp> {
        match self {
            Self::Sent(reply)
            | Self::Unavailable(_, reply)
            | Self::Interrupted(_, reply)
            | Self::Unknown(_, reply) => reply.as_ref(),
            Self::Refused { reply, .. } => Some(reply),
            _ => None,
        }
    }
}
