//! Mail for later: kept by the scheduler, and republished when it is due.

use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Pipeline, Settlement, context::DeliveryContext, erased_recipient, instrument::DeliveryPlanned,
};
use crate::{
    audit::Status,
    metrics::InternalEvent,
    routing::Recipient,
    scheduler::{Added, Planned, State, Version},
    trace::NONE,
};

/// How often due mail is looked for while there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Messages republished at once: as many as the broker's publisher has channels.
const AT_ONCE: usize = 16;

impl DeliveryContext<'_> {
    /// When this delivery is due, if that is later than now. A republished one has had its time,
    /// whatever the clock says; one without a recipient has nothing to wait for; one with secrets is
    /// never kept for later.
    pub(super) fn due_later(&self) -> Option<Timestamp> {
        let is_new = self.message.delivery_headers.is_none();
        let can_wait = self.delivery.route.secrets.is_empty()
            && matches!(self.delivery.recipient, Recipient::Address(_));
        self.event.deliver_at.filter(|due| is_new && can_wait && *due > crate::clock::now())
    }
}

impl Pipeline {
    /// Gives a delivery to the scheduler; durable when this returns.
    pub(super) async fn schedule(
        &self,
        ctx: &mut DeliveryContext<'_>,
        due: Timestamp,
    ) -> Settlement {
        let (event, delivery) = (ctx.event, ctx.delivery);
        // Asked for each of them, for it stays there until it is due.
        ctx.is_erased = self.is_erased(ctx).await;
        if ctx.is_erased {
            erased_recipient::REASON.clone_into(&mut ctx.reason);
            return self.record_unclaimed(ctx, Status::Suppressed).await;
        }
        let planned = Planned {
            delivery_id: delivery.id.clone(),
            due,
            claim_at: due,
            state: State::Planned,
            reason: None,
            booking_id: event.booking_id(),
            event_type: event.kind.clone(),
            priority: delivery.priority,
            version: Version::from_event(event, ctx.message),
            planned_at: crate::clock::now(),
            purge_at: None,
            decision: None,
            delivery_headers: ctx.delivery_headers(delivery.attempt, "planned"),
            properties: ctx.message.properties.clone(),
            // It was parsed, so it is UTF-8.
            body: String::from_utf8_lossy(&ctx.message.body).into_owned(),
        };
        match self.add_planned(planned).await {
            Added::New => {
                crash_point!("after_planned");
                DeliveryPlanned { event, delivery, due }.emit(&self.metrics);
                Settlement::Planned
            }
            Added::Known => Settlement::Known,
            Added::Duplicate(first) => self.duplicate(ctx, Some(&first)).await,
        }
    }

    /// Republishes planned mail as it becomes due, until `stop` is cancelled.
    pub async fn publish_planned(pipeline: &ArcSwap<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if pipeline.load_full().publish_due().await == 0 {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
    }

    /// Republishes a batch of planned mail that is due; returns its size.
    pub async fn publish_due(&self) -> usize {
        let due = self.claim_due(crate::clock::now()).await;
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
