//! A recipient who was erased gets no mail that was published before the erasure, and nothing of it is
//! kept.

use jiff::{SignedDuration, Timestamp};

use super::{Pipeline, context::DeliveryContext};
use crate::routing::Recipient;

/// A message that is younger and met for the first time is no copy. Looking up each recipient would cost
/// every mail a query, and would hold security codes back while MongoDB is down.
pub(crate) const RECENT: SignedDuration = SignedDuration::from_secs(2);

impl Pipeline {
    /// Whether the recipient was erased since this was published, as far as it can be a copy.
    pub(super) async fn is_late_copy(&self, ctx: &DeliveryContext<'_>) -> bool {
        let is_first = ctx.message.delivery_headers.is_none() && !ctx.message.redelivered;
        let age = crate::clock::now().duration_since(published_at(ctx));
        !(is_first && age < RECENT) && self.is_erased(ctx).await
    }

    /// Whether the recipient was erased since this was published.
    pub(super) async fn is_erased(&self, ctx: &DeliveryContext<'_>) -> bool {
        let Recipient::Address(recipient) = &ctx.delivery.recipient else { return false };
        let hash = self.identity.recipient_hash(recipient);
        let erased_at = self.erased_at(&hash).await;
        erased_at.is_some_and(|erased_at| published_at(ctx) <= erased_at)
    }
}

/// When the event was published, as far as it says so; never after its arrival.
fn published_at(ctx: &DeliveryContext<'_>) -> Timestamp {
    let (message, event) = (ctx.message, ctx.event);
    let seconds = message.properties.timestamp.and_then(|at| i64::try_from(at).ok());
    let stated = seconds.and_then(|at| Timestamp::from_second(at).ok()).or(event.occurred_at);
    stated.map_or(message.arrived_at(), |at| at.min(message.arrived_at()))
}

/// Why nothing is sent.
pub(super) const REASON: &str = "the recipient was erased after this was published";
