//! Erases a person from a record. The fact of the delivery stays.

use jiff::Timestamp;
use serde_json::Map;

use crate::{audit::Record, redaction::ERASED};

impl Record {
    /// Removes address, subject, variables and the texts of server and error. Ids, the keyed hash of
    /// the address, codes and times stay.
    pub fn erase(&mut self, at: Timestamp) {
        self.recipient = String::new();
        self.forget(at);
    }

    /// The same for a record of mail to somebody else, which keeps its recipient.
    pub fn forget(&mut self, at: Timestamp) {
        self.subject = String::new();
        self.data = Map::new();
        if let Some(error) = &mut self.error {
            ERASED.clone_into(&mut error.message);
        }
        if let Some(smtp) = &mut self.smtp {
            ERASED.clone_into(&mut smtp.reply);
        }
        if let Some(message) = &mut self.message {
            // Who guesses the content could confirm it.
            (message.sha256, message.content_sha256) = (None, None);
        }
        self.erased_at = Some(at);
    }
}
