//! The mail channel without a server: it composes each mail and sends none.

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Attempted, Channel, Outcome, Outgoing, Slot, SlotRequest, email::Sender};
use crate::text::printable;

pub struct Simulated {
    sender: Sender,
    print: bool,
}

impl Simulated {
    pub fn new(sender: Sender) -> Self {
        Self { sender, print: false }
    }

    /// Prints each mail to standard output (`EMAIL_BACKEND=console`).
    pub fn console(sender: Sender) -> Self {
        Self { sender, print: true }
    }
}

#[async_trait]
impl Channel for Simulated {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        super::email::check_recipient(address)
    }

    async fn ready(&self, _request: SlotRequest<'_>) -> Box<dyn Slot> {
        Box::new(SimulatedSlot { sender: self.sender.clone(), print: self.print })
    }
}

struct SimulatedSlot {
    sender: Sender,
    print: bool,
}

#[async_trait]
impl Slot for SimulatedSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        // The mail is composed, so that one which could not be sent is not recorded as simulated.
        let mail = match self.sender.compose_aside(message).await {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason).into(),
        };
        if !latch.await {
            return Outcome::Withheld.into();
        }
        if self.print {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            // A closed standard output does not fail the delivery.
            let _ = writeln!(out, "{}", printable(&mail.text));
        }
        Attempted { outcome: Outcome::Simulated, mail: Some(mail.seal()) }
    }
}
