//! Traces: a span for each message, linked to its publisher's, a span for each delivery, and one
//! for each step. Names and attributes follow OpenTelemetry
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>). None contains an
//! address, a subject or a server's text.
//!
//! Off unless there is a collector: then a span is `None` and costs one comparison.

mod export;

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

use crate::{
    audit::{Record, Smtp},
    broker::Message,
    event::Event,
    routing::Delivery,
};

/// The header, and its name in CloudEvents.
const TRACEPARENT: &str = "traceparent";

/// Creates spans if a collector is configured; cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<ActiveTracer>);

#[derive(Clone)]
struct ActiveTracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    system: &'static str,
}

/// For work that belongs to no message.
pub static NONE: Span = Span(None);

/// A span that ends when it is dropped, or none.
#[derive(Default)]
pub struct Span(Option<(ActiveTracer, Context)>);

impl Tracer {
    /// A tracer that exports to `OTEL_EXPORTER_OTLP_ENDPOINT`, or that is off if it is not set.
    /// `system` is the broker's name, `instance` names the process.
    pub fn from_environment(system: &'static str, instance: &str) -> anyhow::Result<Self> {
        use opentelemetry::trace::TracerProvider;
        let Some(provider) = export::provider(instance)? else { return Ok(Self(None)) };
        let tracer = provider.tracer("usher");
        Ok(Self(Some(ActiveTracer { provider, tracer, system })))
    }

    /// The span of a consumed message. A message without trace context starts a trace, and its
    /// republishes continue it.
    pub fn process(&self, message: &mut Message, event: Option<&Event>) -> Span {
        // The header has the last hop, the CloudEvents extension the first.
        let extension = event.and_then(|event| event.traceparent.as_deref());
        let contexts = [message.properties.traceparent.as_deref(), extension];
        let published = contexts.into_iter().flatten().find_map(read);
        let span = self.start(message, event, published.as_ref());
        let context = published.or_else(|| span.context());
        message.properties.traceparent = context.as_ref().map(write);
        span
    }

    fn start(
        &self,
        message: &Message,
        event: Option<&Event>,
        parent: Option<&SpanContext>,
    ) -> Span {
        let Some(active) = &self.0 else { return Span(None) };
        let mut attributes = messaging(active.system, "process", message.queue.clone());
        let size = i64::try_from(message.body.len()).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("messaging.message.body.size", size));
        attributes.push(KeyValue::new("usher.redelivered", message.redelivered));
        if let Some(id) = &message.properties.message_id {
            attributes.push(KeyValue::new("messaging.message.id", id.clone()));
        }
        if let Some(event) = event {
            attributes.push(KeyValue::new("usher.event.id", event.id.value.clone()));
            attributes.push(KeyValue::new("usher.event.type", event.kind.clone()));
        }
        let builder = SpanBuilder::from_name(format!("process {}", message.queue))
            .with_kind(SpanKind::Consumer)
            .with_start_time(message.received_at)
            .with_links(parent.cloned().map(Link::with_context).into_iter().collect())
            .with_attributes(attributes);
        let around = parent.cloned().map(|parent| Context::new().with_remote_span_context(parent));
        active.span(builder, &around.unwrap_or_default())
    }

    /// Flushes the remaining spans.
    pub async fn close(self) {
        if let Some(active) = self.0 {
            // Waits for the collector, whose failures are logged already.
            let _ = tokio::task::spawn_blocking(move || active.provider.shutdown()).await;
        }
    }
}

impl ActiveTracer {
    fn span(&self, builder: SpanBuilder, parent: &Context) -> Span {
        let span = self.tracer.build_with_context(builder, parent);
        Span(Some((self.clone(), parent.with_span(span))))
    }
}

impl Span {
    /// The span of one delivery.
    pub fn delivery(&self, delivery: &Delivery) -> Self {
        let Some((active, context)) = &self.0 else { return Self(None) };
        let builder = SpanBuilder::from_name(format!("deliver {}", delivery.route.name))
            .with_attributes([
                KeyValue::new("usher.delivery.id", delivery.id.to_string()),
                KeyValue::new("usher.route", delivery.route.name.clone()),
                KeyValue::new("usher.channel", delivery.route.channel.as_str()),
            ]);
        active.span(builder, context)
    }

    /// Records a step that ends now.
    pub fn step(&self, name: &'static str, began: Instant) {
        self.record(began, |_| SpanBuilder::from_name(name));
    }

    /// Records the dialogue with a mail server, which ends now.
    pub fn sent(&self, began: Instant, reply: Option<&Smtp>) {
        self.record(began, |_| {
            let place = reply.and_then(|reply| reply.server.rsplit_once(':'));
            let code = reply.map(|reply| KeyValue::new("usher.smtp.code", i64::from(reply.code)));
            let port = |port: &str| port.parse::<i64>().unwrap_or_default();
            let place = place.into_iter().flat_map(|(server, at)| {
                let address = KeyValue::new("server.address", server.to_owned());
                [address, KeyValue::new("server.port", port(at))]
            });
            SpanBuilder::from_name("send")
                .with_kind(SpanKind::Client)
                .with_attributes(place.chain(code))
        });
    }

    /// Records a republish that the broker has confirmed.
    pub fn published(&self, began: Instant, queue: &str) {
        self.record(began, |active| {
            SpanBuilder::from_name(format!("publish {queue}"))
                .with_kind(SpanKind::Producer)
                .with_attributes(messaging(active.system, "send", queue.to_owned()))
        });
    }

    pub fn outcome(&self, outcome: &'static str) {
        if let Some((_, context)) = &self.0 {
            context.span().set_attribute(KeyValue::new("usher.outcome", outcome));
        }
    }

    pub fn recorded(&self, record: &Record) {
        let Some((_, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("usher.attempt", i64::from(record.attempt)));
        span.set_attribute(KeyValue::new("usher.status", record.status.as_str()));
        if let Some(error) = record.error.as_ref().filter(|_| record.status.is_failure()) {
            span.set_attribute(KeyValue::new("error.type", error.kind.clone()));
            // A server's text may be in it.
            span.set_status(Status::error(""));
        }
    }

    fn record(&self, began: Instant, builder: impl FnOnce(&ActiveTracer) -> SpanBuilder) {
        let Some((active, context)) = &self.0 else { return };
        let began = SystemTime::now() - began.elapsed();
        drop(active.span(builder(active).with_start_time(began), context));
    }

    fn context(&self) -> Option<SpanContext> {
        self.0.as_ref().map(|(_, context)| context.span().span_context().clone())
    }
}

fn messaging(system: &'static str, operation: &'static str, queue: String) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", system),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new(
            "messaging.operation.name",
            if operation == "send" { "publish" } else { operation },
        ),
        KeyValue::new("messaging.destination.name", queue),
    ]
}

/// The trace id in a W3C `traceparent`.
pub fn trace_id(traceparent: &str) -> Option<String> {
    read(traceparent).map(|context| context.trace_id().to_string())
}

/// Parses a W3C `traceparent`.
fn read(traceparent: &str) -> Option<SpanContext> {
    let header = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &header);
    let found = context.span().span_context().clone();
    found.is_valid().then_some(found)
}

fn write(context: &SpanContext) -> String {
    let flags = context.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_and_what_is_none_is_not() {
        assert_eq!(read(GIVEN).map(|context| write(&context)).as_deref(), Some(GIVEN));
        for bad in [
            "",
            "nonsense",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-user@example.com-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
