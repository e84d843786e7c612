//! Those who were erased get no copy of what was published before that, and nothing is kept of it.

use jiff::{SignedDuration, Timestamp};

use super::{Pipeline, record::Story};
use crate::routing::Recipient;

/// What was published so recently and is met for the first time is no copy: looking up each of them
/// would cost every mail a question, and keep security codes from going out while MongoDB is down.
pub(crate) const RECENT: SignedDuration = SignedDuration::from_secs(2);

impl Pipeline {
    /// Whether the recipient was erased since this was published, as far as it can be a copy.
    pub(super) async fn is_late_copy(&self, story: &Story<'_>) -> bool {
        let is_first = story.message.delivery_headers.is_none() && !story.message.redelivered;
        let age = Timestamp::now().duration_since(published_at(story));
        !(is_first && age < RECENT) && self.is_erased(story).await
    }

    /// Whether the recipient was erased since this was published.
    pub(super) async fn is_erased(&self, story: &Story<'_>) -> bool {
        let Recipient::Address(recipient) = &story.delivery.recipient else { return false };
        let hash = self.identity.recipient_hash(recipient);
        let erased_at = self.erased_at(&hash).await;
        erased_at.is_some_and(|erased_at| published_at(story) <= erased_at)
    }
}

/// When the event was published, as far as it says so, and not after it arrived.
fn published_at(story: &Story<'_>) -> Timestamp {
    let (message, event) = (story.message, story.event);
    let seconds = message.properties.timestamp.and_then(|at| i64::try_from(at).ok());
    let stated = seconds.and_then(|at| Timestamp::from_second(at).ok()).or(event.occurred_at);
    stated.map_or(message.arrived_at(), |at| at.min(message.arrived_at()))
}

/// Why nothing is sent.
pub(super) const REASON: &str = "the recipient was erased after this was published";
