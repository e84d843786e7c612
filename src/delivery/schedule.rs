//! Mail for later: written to the plan, and handed to the broker when it is due.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{End, Pipeline, erased_recipient, record::Story};
use crate::{
    audit::Status,
    broker::Message,
    event::Event,
    routing::{Delivery, Recipient},
    scheduler::{Added, Planned, State, Version},
    trace::NONE,
};

/// How often it is looked at what is due.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Hand-offs under way at once: as many as the broker's publisher has channels.
const AT_ONCE: usize = 16;

impl Pipeline {
    /// When this delivery is to go out, if not now. A hand-off has had its time, whatever the clock
    /// says; without a recipient there is nothing to wait for; and secrets don't lie around for later.
    pub(super) fn later(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
    ) -> Option<Timestamp> {
        let is_new = message.delivery_headers.is_none();
        let can_wait = delivery.route.secrets.is_empty()
            && matches!(delivery.recipient, Recipient::Address(_));
        event.deliver_at.filter(|due| is_new && can_wait && *due > Timestamp::now())
    }

    /// Writes a delivery to the plan; durable when this returns.
    pub(super) async fn schedule(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        due: Timestamp,
    ) -> End {
        let mut story = Story::new(message, event, delivery, &NONE);
        // Always, for it would lie there until it is due.
        story.is_erased = self.is_erased(&story).await;
        if story.is_erased {
            erased_recipient::REASON.clone_into(&mut story.reason);
            return self.record_over(&story, Status::Suppressed).await;
        }
        // It was parsed, so it is UTF-8.
        let body = String::from_utf8_lossy(&message.body).into_owned();
        let planned = Planned {
            delivery_id: delivery.id.clone(),
            due,
            claim_at: due,
            state: State::Planned,
            reason: None,
            booking_id: event.booking_id(),
            event_type: event.kind.clone(),
            priority: delivery.priority,
            version: Version::of(event, message),
            planned_at: Timestamp::now(),
            purge_at: None,
            delivery_headers: self.delivery_headers(
                message,
                event,
                delivery,
                delivery.attempt,
                "planned",
            ),
            properties: message.properties.clone(),
            body,
        };
        match self.add_planned(planned).await {
            Added::New => {
                crash_point!("after_planned");
                tracing::info!(
                    delivery_id = %delivery.id,
                    event.id = event.id.value,
                    route = delivery.route.name,
                    %due,
                    "delivery planned"
                );
                End::Planned
            }
            Added::Known => End::Known,
            Added::Duplicate(first) => self.duplicate(story, Some(&first)).await,
        }
    }

    /// Hands over what is due, until told to stop.
    pub async fn publish_planned(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.publish_due().await == 0 {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
    }

    /// Hands over a batch of what is due; says of how many.
    pub async fn publish_due(&self) -> usize {
        let due = self.claim_due(Timestamp::now()).await;
        if due.is_empty() {
            return 0;
        }
        crash_point!("after_due_claimed");
        let published = stream::iter(due).map(async |planned| {
            let delivery = planned.delivery_id.clone();
            self.republish(&planned.republish(), &NONE).await;
            crash_point!("after_due_published");
            delivery
        });
        let published: Vec<_> = published.buffer_unordered(AT_ONCE).collect().await;
        self.mark_published(&published).await;
        published.len()
    }
}
