//! What happens on the main line: one struct for each thing, which emits its log line, its metric and
//! its span together.
//!
//! Spans are [`trace::Span`](crate::trace::Span) and not `tracing-opentelemetry`'s: most steps become
//! a span when they are over, with a start time in the past, which that crate can't express.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::Level;

use super::{Settlement, record::trace_id};
use crate::{
    audit::{Record, Status},
    broker::Message,
    event::Event,
    metrics::{InternalEvent, Metrics},
    redaction::{mask_address, mask_addresses},
    routing::{ChannelKind, Delivery, Priority},
    trace::Span,
};

/// Logs at a level that is only known at run time.
macro_rules! log {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            tracing::Level::ERROR => tracing::error!($($fields)*),
            tracing::Level::WARN => tracing::warn!($($fields)*),
            _ => tracing::info!($($fields)*),
        }
    };
}

/// All deliveries of a message are settled.
pub(super) struct MessageProcessed<'a> {
    pub(super) message: &'a Message,
    pub(super) event: &'a Event,
    pub(super) settlements: &'a [Settlement],
}

impl InternalEvent for MessageProcessed<'_> {
    fn emit(self, _: &Metrics) {
        let Self { message, event, settlements } = self;
        let statuses = settlements.iter().filter_map(|settlement| match settlement {
            Settlement::Recorded(status) => Some(*status),
            _ => None,
        });
        // The lesser level is the more serious one.
        let level = statuses.map(Status::level).min().unwrap_or(Level::INFO);
        let outcome: Vec<&str> = settlements.iter().map(|it| it.as_str()).collect();
        log!(
            level,
            event.id = event.id.value,
            event.r#type = event.kind,
            queue = message.queue,
            redelivered = message.redelivered,
            deliveries = outcome.len(),
            outcome = outcome.join(" "),
            trace_id = trace_id(message),
            "event processed"
        );
    }
}

/// An event's type is on the list of ignored types.
pub(super) struct EventIgnored;

impl InternalEvent for EventIgnored {
    fn emit(self, metrics: &Metrics) {
        metrics.ignored();
    }
}

/// A field of an event asks for something that is not done.
pub(super) struct FieldIgnored<'a> {
    pub(super) event: &'a Event,
    pub(super) reason: String,
}

impl InternalEvent for FieldIgnored<'_> {
    fn emit(self, _: &Metrics) {
        let Self { event, reason } = self;
        tracing::warn!(
            event.id = event.id.value,
            event.r#type = event.kind,
            reason,
            "a field of the event is ignored"
        );
    }
}

/// A delivery came to this record. Its names are the record's; nothing of what the mail says is among
/// them.
pub(super) struct DeliveryRecorded<'a> {
    pub(super) record: &'a Record,
    pub(super) span: &'a Span,
}

impl InternalEvent for DeliveryRecorded<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { record, span } = self;
        metrics.recorded(record);
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

/// A delivery was sent, this long after it was wanted.
pub(super) struct DeliverySent {
    pub(super) priority: Priority,
    pub(super) latency: Duration,
}

impl InternalEvent for DeliverySent {
    fn emit(self, metrics: &Metrics) {
        metrics.sent(self.priority, self.latency);
    }
}

/// A delivery waits in the scheduler until it is due.
pub(super) struct DeliveryPlanned<'a> {
    pub(super) event: &'a Event,
    pub(super) delivery: &'a Delivery,
    pub(super) due: Timestamp,
}

impl InternalEvent for DeliveryPlanned<'_> {
    fn emit(self, _: &Metrics) {
        tracing::info!(
            delivery_id = %self.delivery.id,
            event.id = self.event.id.value,
            route = self.delivery.route.name,
            due = %self.due,
            "delivery planned"
        );
    }
}

/// The broker confirmed a message: a delivery that goes on in one of usher's own queues, or a status event.
pub(super) struct MessagePublished<'a> {
    pub(super) destination: String,
    pub(super) began: Instant,
    pub(super) span: &'a Span,
}

impl InternalEvent for MessagePublished<'_> {
    fn emit(self, metrics: &Metrics) {
        self.span.published(self.began, &self.destination);
        metrics.published(self.destination);
    }
}

/// No attempt was made; the same one comes again.
pub(super) struct DeliveryPutOff<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) reason: &'a str,
}

impl InternalEvent for DeliveryPutOff<'_> {
    fn emit(self, _: &Metrics) {
        tracing::debug!(delivery_id = %self.delivery.id, reason = self.reason, "delivery put off");
    }
}

/// A record is durable in the audit.
pub(super) struct RecordWritten<'a> {
    pub(super) began: Instant,
    pub(super) span: &'a Span,
}

impl InternalEvent for RecordWritten<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.written(self.began.elapsed());
        self.span.step("record", self.began);
    }
}

/// Another owner holds the claim by now.
pub(super) struct ClaimLost<'a> {
    pub(super) delivery: &'a Delivery,
}

impl InternalEvent for ClaimLost<'_> {
    fn emit(self, metrics: &Metrics) {
        tracing::debug!(delivery_id = %self.delivery.id, "claim lost");
        metrics.claim_lost();
    }
}

/// A delivery came again after its end.
pub(super) struct KnownDelivery;

impl InternalEvent for KnownDelivery {
    fn emit(self, metrics: &Metrics) {
        metrics.redelivered();
    }
}

/// The template in the database failed, and the file took its place.
pub(super) struct TemplateFellBack<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) error: &'a str,
}

impl InternalEvent for TemplateFellBack<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.template_fell_back();
        tracing::error!(
            delivery_id = %self.delivery.id,
            error = self.error,
            "template in the database failed, the file is used"
        );
    }
}
