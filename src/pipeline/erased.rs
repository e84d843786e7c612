//! Those who were erased get no copy of what was published before that, and nothing is kept of it.

use jiff::{SignedDuration, Timestamp};

use super::{Pipeline, records::Story};
use crate::{broker::Message, catalog::Recipient, event::Event};

/// What was published so recently and is met for the first time is no copy: looking up each of them
/// would cost every mail a question, and keep security codes from going out while MongoDB is down.
pub(crate) const RECENT: SignedDuration = SignedDuration::from_secs(2);

impl Pipeline {
    /// Takes note of whether the recipient was erased since this was published.
    pub(super) async fn look_for_erasure(&self, story: &mut Story<'_>) {
        let Recipient::Address(recipient) = &story.delivery.recipient else { return };
        let published = published_at(story.message, story.event);
        let is_first = story.message.ticket.is_none() && !story.message.redelivered;
        if is_first && Timestamp::now().duration_since(published) < RECENT {
            return;
        }
        let hash = self.identity.recipient_hash(recipient);
        let erased_at = self.erased_at(&hash).await;
        story.is_erased = erased_at.is_some_and(|erased_at| published <= erased_at);
    }
}

/// When the event was published, as far as it says so, and not after it arrived.
fn published_at(message: &Message, event: &Event) -> Timestamp {
    let seconds = message.properties.timestamp.and_then(|at| i64::try_from(at).ok());
    let stated = seconds.and_then(|at| Timestamp::from_second(at).ok()).or(event.occurred_at);
    stated.map_or(message.arrived_at(), |at| at.min(message.arrived_at()))
}

/// Why nothing is sent.
pub(super) const REASON: &str = "the recipient was erased after this was published";
