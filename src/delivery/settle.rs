//! The end of an attempt: the ledger, the audit and the broker are told, in an order in which any
//! of them alone proves what happened.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use serde_json::Value;
use tokio::join;

use super::{
    End, Hold, Pipeline,
    decide::{Verdict, wait_before},
    record::{Story, mask},
};
use crate::{
    audit::{ERASED, Record, Status, mask_address, mask_addresses},
    broker::{DEFER, DeliveryHeaders, Destination, Message, Republish},
    event::{Event, snake_case},
    ledger::{Input, Next, Reply},
    routing::{ChannelKind, Delivery, Priority},
    trace::Span,
};

impl Pipeline {
    /// Settles an attempt that was ours to make.
    pub(super) async fn settle(&self, story: Story<'_>, verdict: Verdict, hold: &Hold) -> End {
        match verdict {
            Verdict::Sent => self.sent(&story, Status::Sent).await,
            Verdict::Simulated => self.sent(&story, Status::Simulated).await,
            Verdict::Next { next, wait, kind } => self.next(&story, next, wait, kind, hold).await,
        }
    }

    /// A fact: ledger and audit are written at the same time, for either one proves it.
    async fn sent(&self, story: &Story<'_>, status: Status) -> End {
        let record = Arc::new(story.record(self, status, true, None));
        let fact = Input::Sent {
            event: story.event.id.value.clone(),
            attempt: story.attempt,
            record: Story::to_json(&record),
            derived: story.delivery.derived,
        };
        // Either one proves the outcome, so neither waits for the other.
        join!(
            async {
                self.ledger(&story.delivery.id, fact).await;
                crash_point!("after_ledger_sent");
            },
            async {
                self.write(record.clone(), story.span).await;
                crash_point!("after_audit_sent");
            }
        );
        crash_point!("after_sent");
        self.metrics.sent(story.delivery.priority, story.latency(record.at));
        self.told(&record, story.span);
        End::Recorded(status)
    }

    /// The intention first, then the hand-off, then that it was handed off. A copy of the message
    /// that meets the entry in between goes on from there.
    async fn next(
        &self,
        story: &Story<'_>,
        next: Next,
        wait: Duration,
        kind: &str,
        hold: &Hold,
    ) -> End {
        let status = match next {
            _ if story.is_unknown => Status::Unknown,
            Next::Retry(_) => Status::Retrying,
            Next::Dead | Next::Poison | Next::Park => Status::Failed,
        };
        if matches!(next, Next::Retry(again) if again == story.attempt) {
            return self.put_off(story, next, wait, hold).await;
        }
        let is_final = !matches!(next, Next::Retry(_));
        let mut record = story.record(self, status, is_final, Some(kind));
        let wait_signed = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        record.due =
            (!is_final).then(|| record.at.saturating_add(wait_signed).unwrap_or(record.at));
        let record = Arc::new(record);
        if !self.decided(story, next, Story::to_json(&record), hold).await {
            // Somebody else took this process for gone and decides; the copy that comes back finds
            // out what.
            self.defer(story).await;
            return End::Republished;
        }
        crash_point!("after_decide");
        join!(
            self.publish_next(story, next, wait, story.attempt),
            self.write(record.clone(), story.span)
        );
        crash_point!("after_next");
        self.told(&record, story.span);
        End::Recorded(status)
    }

    /// Whether the decision is ours to make. Where the entry was lost it is, for nobody else knows.
    async fn decided(&self, story: &Story<'_>, next: Next, record: String, hold: &Hold) -> bool {
        let input = Input::Decide { owner: hold.owner.clone(), fence: hold.fence(), next, record };
        let lost = self.ledger(&story.delivery.id, input).await == Reply::Lost;
        if lost {
            self.metrics.claim_lost();
        }
        !lost
    }

    /// No attempt was made, so there is nothing to record: the same one comes again later.
    async fn put_off(&self, story: &Story<'_>, next: Next, wait: Duration, hold: &Hold) -> End {
        if !self.decided(story, next, String::new(), hold).await {
            self.defer(story).await;
            return End::Republished;
        }
        self.publish_next(story, next, wait, story.attempt).await;
        crash_point!("after_put_off");
        tracing::debug!(delivery_id = %story.delivery.id, reason = story.reason, "delivery put off");
        End::Republished
    }

    async fn publish_next(&self, story: &Story<'_>, next: Next, wait: Duration, attempt: u32) {
        let priority = story.delivery.priority;
        let (destination, attempt_of_headers) = match next {
            Next::Retry(to_come) => (Destination::Later(wait, priority), to_come),
            Next::Dead => (Destination::Dead, attempt),
            Next::Park => (Destination::Parked, attempt),
            Next::Poison => (Destination::Poison, attempt),
        };
        let mut delivery_headers = self.delivery_headers(
            story.message,
            story.event,
            story.delivery,
            attempt_of_headers,
            &story.reason,
        );
        if story.is_erased && lies_around(destination) {
            delivery_headers.recipient.clear();
            delivery_headers.reason = ERASED.to_owned();
        }
        let body = match masked_body(story, destination) {
            Some(masked) => {
                delivery_headers.masked = true;
                masked
            }
            None => story.message.body.clone(),
        };
        let properties = story.message.properties.clone();
        let republish = Republish { delivery_headers, destination, body, properties };
        self.republish(&republish, story.span).await;
        crash_point!("after_hand_off");
        self.ledger(&story.delivery.id, Input::Republished { attempt, next }).await;
        crash_point!("after_handed");
    }

    /// Decided by an owner that is gone before its hand-off was confirmed.
    pub(super) async fn republish_again(
        &self,
        mut story: Story<'_>,
        next: Next,
        attempt: u32,
        record: &str,
    ) {
        let known: Option<Record> = serde_json::from_str(record).ok();
        if let Some(error) = known.and_then(|record| record.error) {
            story.reason = error.message;
        }
        let wait = wait_before(next, attempt, &self.policy.retry_schedule);
        join!(
            self.publish_next(&story, next, wait, attempt),
            self.write_again(Some(record), story.span)
        );
    }

    /// Not sent, on purpose: suppressed or superseded.
    pub(super) async fn suppress(&self, story: Story<'_>, status: Status, hold: &Hold) -> End {
        let record = Arc::new(story.record(self, status, true, Some(status.as_str())));
        let (owner, fence) = (hold.owner.clone(), hold.fence());
        let input = Input::Suppress { owner, fence, record: Story::to_json(&record) };
        join!(self.ledger(&story.delivery.id, input), self.write(record.clone(), story.span));
        self.told(&record, story.span);
        End::Recorded(status)
    }

    /// Another event told the same fact; that one's delivery stands.
    pub(super) async fn duplicate(&self, mut story: Story<'_>, first: Option<&str>) -> End {
        story.reason = format!(
            "told before by {}",
            match first {
                Some(event) => format!("event {event}"),
                None => "another event".to_owned(),
            }
        );
        self.record_over(&story, Status::Duplicate).await
    }

    /// Over without a claim, so the ledger has nothing to learn.
    pub(super) async fn record_over(&self, story: &Story<'_>, status: Status) -> End {
        let record = Arc::new(story.record(self, status, true, Some(status.as_str())));
        self.write(record.clone(), story.span).await;
        self.told(&record, story.span);
        End::Recorded(status)
    }

    /// Another copy holds the delivery: this one comes back later, unchanged.
    pub(super) async fn defer(&self, story: &Story<'_>) {
        let (delivery, message) = (story.delivery, story.message);
        let attempt = delivery.attempt;
        let republish = Republish {
            delivery_headers: self.delivery_headers(
                message,
                story.event,
                delivery,
                attempt,
                "held by another copy",
            ),
            destination: Destination::Later(DEFER, delivery.priority),
            body: message.body.clone(),
            properties: message.properties.clone(),
        };
        self.republish(&republish, story.span).await;
    }

    /// Mail that may wait goes where it delays nobody.
    pub(super) async fn republish_to_low(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        span: &Span,
    ) {
        let republish = Republish {
            delivery_headers: self.delivery_headers(
                message,
                event,
                delivery,
                delivery.attempt,
                "low priority",
            ),
            destination: Destination::Low,
            body: message.body.clone(),
            properties: message.properties.clone(),
        };
        self.republish(&republish, span).await;
    }

    /// The message can't be understood: an alarm, for it should never have been published.
    pub(super) async fn reject(
        &self,
        message: &Message,
        event: Option<&Event>,
        reason: &str,
        span: &Span,
    ) {
        let record = Arc::new(self.rejection(message, event, reason));
        let delivery_headers = match &message.delivery_headers {
            Some(delivery_headers) => {
                DeliveryHeaders { reason: reason.to_owned(), ..delivery_headers.clone() }
            }
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
                arrived_at: None,
            },
        };
        let mut delivery_headers = delivery_headers;
        let mut body = message.body.clone();
        if let Some(masked) = self.without_secrets(&body) {
            (delivery_headers.masked, body) = (true, masked);
        }
        let republish = Republish {
            delivery_headers,
            destination: Destination::Poison,
            body,
            properties: message.properties.clone(),
        };
        join!(self.republish(&republish, span), self.write(record.clone(), span));
        crash_point!("after_reject");
        self.told(&record, span);
    }

    /// A record that the ledger kept, in case the audit lacks it.
    pub(super) async fn write_again(&self, record: Option<&str>, span: &Span) {
        if let Some(record) = record.and_then(|json| serde_json::from_str(json).ok()) {
            self.write(Arc::new(record), span).await;
        }
    }

    /// One count, one span and one line for each record, with the record's names; nothing of what the
    /// mail says is among them.
    fn told(&self, record: &Record, span: &Span) {
        self.metrics.recorded(record);
        span.recorded(record);
        let error = record.error.as_ref();
        let smtp = record.smtp.as_ref();
        let template = record.template.as_ref();
        log!(
            record.status.level(),
            delivery_id = record.delivery_id.as_str(),
            event.id = record.event.id,
            event.r#type = record.event.kind,
            event.source = record.event.source,
            route = record.route,
            priority = record.priority.map(Priority::as_str),
            channel = record.channel.map(ChannelKind::as_str),
            template.name = template.map(|template| template.name.as_str()),
            template.locale = template.map(|template| template.locale.as_str()),
            template.version = template.map(|template| template.version.as_str()),
            recipient = mask_address(&record.recipient),
            attempt = record.attempt,
            status = record.status.as_str(),
            r#final = record.is_final,
            smtp.server = smtp.map(|smtp| smtp.server.as_str()),
            smtp.command = smtp.map(|smtp| smtp.command.as_str()),
            smtp.code = smtp.map(|smtp| smtp.code),
            smtp.enhanced = smtp.and_then(|smtp| smtp.enhanced.as_deref()),
            message_id = record.message_id,
            error.kind = error.map(|error| error.kind.as_str()),
            error.message = error.map(|error| mask_addresses(&error.message)),
            due = record.due.map(tracing::field::display),
            timings.queued_ms = record.timings.queued_ms,
            timings.claim_ms = record.timings.claim_ms,
            timings.render_ms = record.timings.render_ms,
            timings.send_ms = record.timings.send_ms,
            worker = record.worker,
            trace_id = record.trace_id,
            "delivery recorded"
        );
    }
}

impl Pipeline {
    /// The body with its secrets masked, if it has any. Which route it would have taken is not known
    /// of a message that was not understood, so the fields of all routes' secrets count.
    fn without_secrets(&self, body: &[u8]) -> Option<Vec<u8>> {
        fn gather(value: &Value, is_secret: &impl Fn(&str) -> bool, found: &mut Vec<String>) {
            for (name, value) in value.as_object().into_iter().flatten() {
                match value {
                    Value::String(text) if is_secret(name) && !text.is_empty() => {
                        found.push(text.clone());
                    }
                    Value::Number(number) if is_secret(name) => found.push(number.to_string()),
                    nested => gather(nested, is_secret, found),
                }
            }
        }
        let value: Value = serde_json::from_slice(body).ok()?;
        let mut secrets = Vec::new();
        gather(&value, &|name| self.routing.is_secret(&snake_case(name)), &mut secrets);
        (!secrets.is_empty()).then(|| mask(&value, &secrets).to_string().into_bytes())
    }
}

/// Dead and parked copies lie around for long: where the route has secrets, they are masked, and of
/// those who were erased nothing is left.
fn masked_body(story: &Story<'_>, destination: Destination) -> Option<Vec<u8>> {
    if !lies_around(destination) {
        return None;
    }
    if story.is_erased {
        return Some(b"{}".to_vec());
    }
    if story.secrets.is_empty() {
        return None;
    }
    // It was parsed before, so it can be again.
    let body = serde_json::from_slice(&story.message.body).ok()?;
    Some(mask(&body, &story.secrets).to_string().into_bytes())
}

fn lies_around(destination: Destination) -> bool {
    !matches!(destination, Destination::Later(..) | Destination::Low)
}
