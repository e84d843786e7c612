//! The end of an attempt: the ledger, the audit and the broker are told, in an order in which each
//! of them alone proves what happened.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use tokio::join;

use super::{
    Pipeline, Settlement,
    context::DeliveryContext,
    decide::Decision,
    instrument::{ClaimLost, DeliveryPutOff, DeliveryRecorded, DeliverySent},
    record::to_json,
};
use crate::{
    audit::{Record, Status},
    broker::{DeliveryHeaders, Destination, Message, Republish},
    event::{Event, Fault},
    ledger::{Input, NextStep, Reply},
    metrics::InternalEvent,
    trace::Span,
};

impl Pipeline {
    /// Settles a delivery whose claim is held.
    pub(super) async fn settle(&self, ctx: &DeliveryContext<'_>, decision: Decision) -> Settlement {
        match decision {
            Decision::Sent => self.settle_sent(ctx, Status::Sent).await,
            Decision::Simulated => self.settle_sent(ctx, Status::Simulated).await,
            Decision::Suppressed => self.settle_suppressed(ctx, Status::Suppressed).await,
            Decision::Superseded => self.settle_suppressed(ctx, Status::Superseded).await,
            Decision::Retry { attempt, wait, kind } if attempt == ctx.claim.attempt => {
                self.put_off(ctx, wait, kind).await
            }
            Decision::Retry { attempt, wait, kind } => {
                self.settle_next(ctx, NextStep::Retry(attempt), wait, kind).await
            }
            Decision::DeadLetter { kind } => {
                self.settle_next(ctx, NextStep::Dead, Duration::ZERO, kind).await
            }
            Decision::Park { kind } => {
                self.settle_next(ctx, NextStep::Park, Duration::ZERO, kind).await
            }
            Decision::Poison { kind } => {
                self.settle_next(ctx, NextStep::Poison, Duration::ZERO, kind).await
            }
        }
    }

    /// A fact: ledger and audit are written at the same time, for either one proves it.
    async fn settle_sent(&self, ctx: &DeliveryContext<'_>, status: Status) -> Settlement {
        let record = Arc::new(ctx.record(self, status, true, None));
        let fact = Input::Sent {
            event: ctx.event.id.value.clone(),
            attempt: ctx.claim.attempt,
            record: to_json(&record),
            derived: ctx.delivery.derived,
        };
        join!(
            async {
                self.ledger(&ctx.delivery.id, fact).await;
                crash_point!("after_ledger_sent");
            },
            async {
                self.write(record.clone(), ctx.span).await;
                crash_point!("after_audit_sent");
            }
        );
        crash_point!("after_sent");
        let (priority, latency) = (ctx.delivery.priority, ctx.latency(record.at));
        DeliverySent { priority, latency }.emit(&self.metrics);
        self.recorded(&record, ctx.span)
    }

    /// Not sent, on purpose.
    async fn settle_suppressed(&self, ctx: &DeliveryContext<'_>, status: Status) -> Settlement {
        let record = Arc::new(ctx.record(self, status, true, Some(status.as_str())));
        let (owner, fence) = (ctx.claim.owner.clone(), ctx.claim.fence);
        let input = Input::Suppress { owner, fence, record: to_json(&record) };
        join!(self.ledger(&ctx.delivery.id, input), self.write(record.clone(), ctx.span));
        self.recorded(&record, ctx.span)
    }

    /// Decides in the ledger, republishes, then tells the ledger that it was republished. A copy of the
    /// message that meets the entry in between goes on from there.
    async fn settle_next(
        &self,
        ctx: &DeliveryContext<'_>,
        next: NextStep,
        wait: Duration,
        kind: &str,
    ) -> Settlement {
        let status = match next {
            _ if ctx.is_unknown => Status::Unknown,
            NextStep::Retry(_) => Status::Retrying,
            NextStep::Dead | NextStep::Poison | NextStep::Park => Status::Failed,
        };
        let is_final = !matches!(next, NextStep::Retry(_));
        let mut record = ctx.record(self, status, is_final, Some(kind));
        let wait_signed = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        record.due =
            (!is_final).then(|| record.at.saturating_add(wait_signed).unwrap_or(record.at));
        let record = Arc::new(record);
        if !self.decided(ctx, next, to_json(&record)).await {
            // Another instance took this process for dead and decides. The copy that comes back finds
            // out what.
            self.defer_to_owner(ctx).await;
            return Settlement::Republished;
        }
        crash_point!("after_decide");
        // Before the next attempt can begin: its claim takes the place of the ledger's record.
        self.write(record.clone(), ctx.span).await;
        self.republish_next(ctx, next, wait, ctx.claim.attempt).await;
        crash_point!("after_next");
        self.recorded(&record, ctx.span)
    }

    /// No attempt was made, so nothing is recorded: the same one comes again later.
    async fn put_off(&self, ctx: &DeliveryContext<'_>, wait: Duration, kind: &str) -> Settlement {
        let attempt = ctx.claim.attempt;
        let next = NextStep::Retry(attempt);
        if !self.decided(ctx, next, String::new()).await {
            self.defer_to_owner(ctx).await;
            return Settlement::Republished;
        }
        join!(
            self.republish_next(ctx, next, wait, attempt),
            self.mark_waiting(ctx, kind, &ctx.reason, Some(wait))
        );
        crash_point!("after_put_off");
        DeliveryPutOff { delivery: ctx.delivery, reason: &ctx.reason }.emit(&self.metrics);
        Settlement::Republished
    }

    /// Whether the decision is ours. It is where the entry was lost, for nobody else knows of it.
    async fn decided(&self, ctx: &DeliveryContext<'_>, next: NextStep, record: String) -> bool {
        let (owner, fence) = (ctx.claim.owner.clone(), ctx.claim.fence);
        let input = Input::Decide { owner, fence, next, record };
        let is_lost = self.ledger(&ctx.delivery.id, input).await == Reply::Lost;
        if is_lost {
            ClaimLost { delivery: ctx.delivery }.emit(&self.metrics);
        }
        !is_lost
    }

    /// Another event has the same business key; that one's delivery stands.
    pub(super) async fn duplicate(
        &self,
        ctx: &mut DeliveryContext<'_>,
        first: Option<&str>,
    ) -> Settlement {
        ctx.reason = match first {
            Some(event) => format!("told before by event {event}"),
            None => "told before by another event".to_owned(),
        };
        self.record_unclaimed(ctx, Status::Duplicate).await
    }

    /// Records an end without a claim; the ledger has nothing to learn.
    pub(super) async fn record_unclaimed(
        &self,
        ctx: &DeliveryContext<'_>,
        status: Status,
    ) -> Settlement {
        let record = Arc::new(ctx.record(self, status, true, Some(status.as_str())));
        self.write(record.clone(), ctx.span).await;
        self.recorded(&record, ctx.span)
    }

    /// Sets a message aside that can't be understood: it should never have been published.
    pub(super) async fn reject(
        &self,
        message: &Message,
        event: Option<&Event>,
        reason: &str,
        span: &Span,
    ) {
        let record = Arc::new(self.rejection(message, event, reason));
        let mut delivery_headers = match &message.delivery_headers {
            Some(known) => DeliveryHeaders { reason: reason.to_owned(), ..known.clone() },
            None => DeliveryHeaders {
                delivery_id: record.delivery_id.clone(),
                event_id: event.map(|event| event.id.value.clone()).unwrap_or_default(),
                route: String::new(),
                channel: String::new(),
                recipient: String::new(),
                attempt: 0,
                origin: message.origin().to_owned(),
                reason: reason.to_owned(),
                masked: false,
                arrived_at: Some(message.arrived_at()),
                relay: None,
                template: None,
                corrected: false,
            },
        };
        let masked = self.mask_secret_fields(&message.body);
        // Of what was not kept there is nothing that could be sent.
        let is_kept = !matches!(message.properties.fault, Some(Fault::TooLarge { .. }));
        delivery_headers.masked |= masked.is_some() || !is_kept;
        let republish = Republish {
            delivery_headers,
            destination: Destination::Poison,
            body: masked.unwrap_or_else(|| message.body.clone()),
            properties: message.properties.clone(),
        };
        join!(self.republish(&republish, span), self.write(record.clone(), span));
        crash_point!("after_reject");
        self.recorded(&record, span);
    }

    /// Writes a record that the ledger kept, in case the audit lacks it.
    pub(super) async fn write_again(&self, record: Option<&str>, span: &Span) {
        if let Some(record) = record.and_then(|json| serde_json::from_str(json).ok()) {
            self.write(Arc::new(record), span).await;
        }
    }

    fn recorded(&self, record: &Record, span: &Span) -> Settlement {
        DeliveryRecorded { record, span }.emit(&self.metrics);
        Settlement::Recorded(record.status)
    }
}
