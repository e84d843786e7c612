//! No server is configured: everything happens but the sending.

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Channel, Outcome, Outgoing, Slot, email::Sender};

/// Says what would have been sent, and sends nothing.
pub struct Simulated {
    sender: Sender,
    print: bool,
}

impl Simulated {
    /// Sends nothing.
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

    async fn ready(&self) -> Box<dyn Slot> {
        Box::new(SimulatedSlot { sender: self.sender.clone(), print: self.print })
    }
}

struct SimulatedSlot {
    sender: Sender,
    print: bool,
}

#[async_trait]
impl Slot for SimulatedSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        // The mail is made all the same: what could not be sent can't be simulated either.
        let mail = match self.sender.compose(message) {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason),
        };
        if !latch.await {
            return Outcome::Withheld;
        }
        if self.print {
            use std::io::Write;
            let mut out = std::io::stdout().lock();
            // A closed standard output is no reason to call the delivery failed.
            let _ = out.write_all(mail.text.as_bytes()).and_then(|()| out.write_all(b"\n"));
        }
        Outcome::Simulated
    }
}
