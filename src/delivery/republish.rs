//! Deliveries on their way to usher's own queues, and what is masked in copies that are kept.

use std::time::Duration;

use serde_json::Value;
use tokio::join;

use super::{Pipeline, context::DeliveryContext, decide::wait_before, record::mask};
use crate::{
    audit::{Record, Status},
    broker::{DEFER, DeliveryHeaders, Destination, Republish},
    event::snake_case,
    ledger::{Input, NextStep},
    redaction::{ERASED, mask_named},
    routing::collect_texts,
};

impl Pipeline {
    /// Republishes to where the decision sends the delivery, and tells the ledger.
    pub(super) async fn republish_next(
        &self,
        ctx: &DeliveryContext<'_>,
        next: NextStep,
        wait: Duration,
        attempt: u32,
    ) {
        let (destination, attempt_in_headers) = match next {
            NextStep::Retry(to_come) => (Destination::Later(wait, ctx.delivery.priority), to_come),
            NextStep::Dead => (Destination::Dead, attempt),
            NextStep::Park => (Destination::Parked, attempt),
            NextStep::Poison => (Destination::Poison, attempt),
        };
        let mut delivery_headers = ctx.delivery_headers(attempt_in_headers, &ctx.reason);
        if ctx.is_erased && is_kept(destination) {
            delivery_headers.recipient.clear();
            delivery_headers.reason = ERASED.to_owned();
        }
        delivery_headers.relay = match next {
            NextStep::Retry(_) if ctx.is_unknown => ctx.handed(),
            NextStep::Retry(_) => delivery_headers.relay,
            // An operator decides, who knows more.
            NextStep::Dead | NextStep::Park | NextStep::Poison => None,
        };
        let masked = masked_body(ctx, destination);
        delivery_headers.masked = masked.is_some();
        let republish = Republish {
            delivery_headers,
            destination,
            body: masked.unwrap_or_else(|| ctx.message.body.clone()),
            properties: ctx.message.properties.clone(),
        };
        self.republish(&republish, ctx.span).await;
        crash_point!("after_hand_off");
        self.ledger(&ctx.delivery.id, Input::Republished { attempt, next }).await;
        crash_point!("after_handed");
    }

    /// Carries out the decision of an owner that died before the broker had confirmed it.
    pub(super) async fn republish_again(
        &self,
        ctx: &mut DeliveryContext<'_>,
        next: NextStep,
        attempt: u32,
        record: &str,
    ) {
        let known: Option<Record> = serde_json::from_str(record).ok();
        if let Some(record) = known {
            ctx.is_unknown = record.status == Status::Unknown;
            ctx.relay = record.relay;
            ctx.repeatable = record.message.and_then(|message| message.repeatable);
            ctx.reason = record.error.map(|error| error.message).unwrap_or_default();
        }
        let wait = wait_before(next, attempt, &self.policy.retry_schedule);
        // Its record goes with the claim of the next attempt.
        self.write_again(Some(record), ctx.span).await;
        self.republish_next(ctx, next, wait, attempt).await;
    }

    /// Another copy holds the delivery: this one comes back later, unchanged.
    pub(super) async fn defer_to_owner(&self, ctx: &DeliveryContext<'_>) {
        self.defer(ctx, "busy", "held by another copy").await;
    }

    /// It could not be tried: it comes back later, unchanged.
    pub(super) async fn defer(&self, ctx: &DeliveryContext<'_>, kind: &str, reason: &str) {
        let destination = Destination::Later(DEFER, ctx.delivery.priority);
        join!(
            self.republish_unchanged(ctx, destination, reason),
            self.mark_waiting(ctx, kind, reason, Some(DEFER))
        );
    }

    /// Mail that may wait goes where it delays no other mail.
    pub(super) async fn republish_to_low(&self, ctx: &DeliveryContext<'_>) {
        self.republish_unchanged(ctx, Destination::Low, "low priority").await;
    }

    /// From a queue of upstream's, which may drop it, to one of usher's own.
    pub(super) async fn take_into_custody(&self, ctx: &DeliveryContext<'_>) {
        let destination = Destination::Later(Duration::ZERO, ctx.delivery.priority);
        self.republish_unchanged(ctx, destination, "delivered before").await;
    }

    async fn republish_unchanged(
        &self,
        ctx: &DeliveryContext<'_>,
        destination: Destination,
        reason: &str,
    ) {
        let republish = Republish {
            delivery_headers: ctx.delivery_headers(ctx.delivery.attempt, reason),
            destination,
            body: ctx.message.body.clone(),
            properties: ctx.message.properties.clone(),
        };
        self.republish(&republish, ctx.span).await;
    }

    /// The body with its secrets masked; `None` if it has none. A message that was not understood has no
    /// route yet, so the secret fields of all routes count.
    pub(super) fn mask_secret_fields(&self, body: &[u8]) -> Option<Vec<u8>> {
        let is_secret = |name: &str| self.routing.is_secret(&snake_case(name));
        let Ok(value) = crate::event::read_json(body) else {
            let text = String::from_utf8_lossy(body);
            return mask_named(&text, is_secret).map(String::into_bytes);
        };
        let mut secrets = Vec::new();
        collect_secrets(&value, &is_secret, &mut secrets);
        let mut masked = mask(&value, &secrets);
        let in_texts = mask_in_texts(&mut masked, &is_secret);
        (in_texts || !secrets.is_empty()).then(|| masked.to_string().into_bytes())
    }
}

impl DeliveryContext<'_> {
    /// The headers of a copy of this delivery.
    pub(super) fn delivery_headers(&self, attempt: u32, reason: &str) -> DeliveryHeaders {
        let delivery = self.delivery;
        let known = self.message.delivery_headers.as_ref();
        DeliveryHeaders {
            delivery_id: delivery.id.clone(),
            event_id: self.event.id.value.clone(),
            route: delivery.route.name.clone(),
            channel: delivery.route.channel.as_str().to_owned(),
            recipient: delivery.recipient.as_str().to_owned(),
            attempt,
            origin: self.message.origin().to_owned(),
            reason: reason.to_owned(),
            masked: false,
            arrived_at: Some(self.message.arrived_at()),
            relay: known.and_then(|headers| headers.relay.clone()),
            template: known.and_then(|headers| headers.template.clone()),
            corrected: self.event.is_corrected,
        }
    }
}

/// Masks secrets by name within texts, such as JSON in a string; whether there were any.
fn mask_in_texts(value: &mut Value, is_secret: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => {
            let masked = mask_named(text, is_secret);
            masked.map(|masked| *text = masked).is_some()
        }
        // All of them, not only up to the first.
        Value::Array(items) => {
            items.iter_mut().fold(false, |any, item| mask_in_texts(item, is_secret) | any)
        }
        Value::Object(fields) => {
            fields.values_mut().fold(false, |any, field| mask_in_texts(field, is_secret) | any)
        }
        _ => false,
    }
}

/// Collects the values of secret fields at any depth.
fn collect_secrets(value: &Value, is_secret: &impl Fn(&str) -> bool, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(name) {
                    collect_texts(value, found);
                } else {
                    collect_secrets(value, is_secret, found);
                }
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| collect_secrets(item, is_secret, found));
        }
        _ => {}
    }
}

/// The body with the route's secrets masked, for queues that keep it; `{}` for those who were erased.
fn masked_body(ctx: &DeliveryContext<'_>, destination: Destination) -> Option<Vec<u8>> {
    if !is_kept(destination) {
        return None;
    }
    if ctx.is_erased {
        return Some(b"{}".to_vec());
    }
    if ctx.secrets.is_empty() {
        return None;
    }
    // It was parsed before, so it can be again.
    let body = crate::event::read_json(&ctx.message.body).ok()?;
    Some(mask(&body, &ctx.secrets).to_string().into_bytes())
}

/// Whether messages stay in this queue until an operator decides.
fn is_kept(destination: Destination) -> bool {
    !matches!(destination, Destination::Later(..) | Destination::Low)
}
