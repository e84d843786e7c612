//! Traces, as a collector gets them.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use serde_json::json;

use crate::support::{
    collector::{Collector, attribute},
    events::{BOOKINGS, booking, with},
    eventually,
    smtp::{ClosedPort, Phase, SmtpServer},
    world::{World, text},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traced() -> BasicProperties {
    let mut headers = FieldTable::default();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    BasicProperties::default().with_headers(headers).with_message_id("m-1".into())
}

fn children<'s>(spans: &'s [Span], parent: &Span) -> Vec<&'s Span> {
    let mut found: Vec<_> =
        spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect();
    found.sort_by_key(|span| span.start_time_unix_nano);
    found
}

fn names<'s>(spans: &[&'s Span]) -> Vec<&'s str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_message_is_traced_from_its_publisher_through_every_attempt() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt)
        .to("secretive@example.com")
        .once()
        .reply("451 4.3.0 <secretive@example.com> later");
    let usher = world
        .usher()
        .smtp(&smtp)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let mut usher = usher.start().await;
    let event = with(booking("e-1", "secretive@example.com"), &json!({"movie_title": "Hush-hush"}));
    world.broker.publish_with(BOOKINGS, event.to_string(), traced()).await;
    let records = world.until_records(2).await;
    let spans = collector.until_processed(2).await;
    assert_eq!(usher.terminate().await.code(), Some(0));

    assert_eq!(collector.resource("service.name"), "usher");
    assert_eq!(collector.resource("deployment.environment.name"), "test");
    let mut messages: Vec<_> =
        spans.iter().filter(|span| span.name.starts_with("process ")).collect();
    messages.sort_by_key(|span| span.start_time_unix_nano);
    assert_eq!(
        names(&messages),
        [format!("process {BOOKINGS}").as_str(), "process usher.due.high"]
    );
    for message in &messages {
        assert_eq!(message.kind(), SpanKind::Consumer);
        assert_eq!(hex::encode(&message.trace_id), TRACE);
        assert_eq!(hex::encode(&message.parent_span_id), PARENT);
        assert_eq!(hex::encode(&message.links[0].span_id), PARENT);
        let is = |name| attribute(&message.attributes, name);
        assert_eq!(is("messaging.system"), "rabbitmq");
        assert_eq!(is("messaging.operation.type"), "process");
        assert_eq!(is("messaging.message.id"), "m-1");
        assert_eq!(is("usher.event.type"), "booking.confirmed");
    }
    assert_eq!(attribute(&messages[0].attributes, "messaging.destination.name"), BOOKINGS);
    for (message, steps, status, error) in [
        (
            messages[0],
            ["claim", "render", "send", "publish usher.delay.100ms", "record"],
            "retrying",
            "deferred",
        ),
        (messages[1], ["claim", "render", "send", "record", ""], "sent", ""),
    ] {
        let deliveries = children(&spans, message);
        assert_eq!(names(&deliveries), ["deliver booking-confirmed"]);
        let is = |name| attribute(&deliveries[0].attributes, name);
        assert_eq!((is("usher.status").as_str(), is("error.type").as_str()), (status, error));
        assert_eq!(is("usher.delivery.id"), text(&records[0], "delivery_id"));
        let failed =
            deliveries[0].status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        assert_eq!(failed, status == "retrying");
        let below = children(&spans, deliveries[0]);
        let mut found = names(&below);
        found.sort_unstable();
        let mut steps: Vec<_> = steps.into_iter().filter(|step| !step.is_empty()).collect();
        steps.sort_unstable();
        assert_eq!(found, steps);
        let send = below.iter().find(|span| span.name == "send").expect("it was sent");
        assert_eq!(send.kind(), SpanKind::Client);
        assert_eq!(attribute(&send.attributes, "server.port"), smtp.port().to_string());
    }
    for record in &records {
        assert_eq!(text(record, "trace_id"), TRACE);
    }
    for message in ["delivery recorded", "event processed"] {
        let lines = usher.find_log(message);
        assert_eq!(lines.len(), 2, "{message}");
        assert!(lines.iter().all(|line| line["trace_id"] == TRACE), "{lines:?}");
    }
    let all = collector.text();
    for private in ["secretive", "Hush-hush", "Booking confirmed", "BOOK-1"] {
        assert!(!all.contains(private), "{private:?} is in the trace:\n{all}");
    }
}

#[tokio::test]
async fn a_trace_begins_with_the_cloudevents_extension_or_here_and_hand_offs_go_on_with_it() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).to("later@example.com").once().reply("451 4.3.0 later");
    let usher = world.usher().smtp(&smtp).set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let _usher = usher.set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).start().await;
    let data = with(booking("", "user@example.com"), &json!({"event_id": null}));
    let cloudevent = json!({
        "specversion": "1.0", "id": "c-1", "source": "/bookings", "type": "booking.confirmed",
        "traceparent": format!("00-{TRACE}-{PARENT}-01"), "data": data,
    });
    world.broker.publish(BOOKINGS, cloudevent.to_string()).await;
    world.broker.publish(BOOKINGS, booking("e-1", "later@example.com").to_string()).await;
    let records = world.until_records(3).await;
    let spans = collector.until_processed(3).await;

    let of = |recipient: &str| {
        let of_one = records.iter().filter(|record| text(record, "recipient") == recipient);
        of_one.map(|record| text(record, "trace_id")).collect::<Vec<_>>()
    };
    assert_eq!(of("user@example.com"), [TRACE]);
    let later = of("later@example.com");
    assert!(later.len() == 2 && later[0].len() == 32 && later[0] == later[1], "{later:?}");
    let own = spans.iter().filter(|span| hex::encode(&span.trace_id) == later[0]);
    let own: Vec<_> = own.filter(|span| span.name.starts_with("process ")).collect();
    let first = own.iter().find(|span| span.parent_span_id.is_empty()).expect("a trace of ours");
    let again = own.iter().find(|span| !span.parent_span_id.is_empty()).expect("the retry");
    assert_eq!(again.parent_span_id, first.span_id);
    assert!(first.links.is_empty());
    assert_eq!(again.links[0].span_id, first.span_id);
}

#[tokio::test]
async fn a_collector_that_is_down_is_one_line_and_delays_nothing() {
    let world = World::new().await;
    let closed = ClosedPort::take();
    let usher = world.usher().set("OTEL_BSP_SCHEDULE_DELAY", "50");
    let endpoint = format!("http://127.0.0.1:{}", closed.port());
    let mut usher = usher.set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).start().await;
    let down = async || {
        let lines = usher.find_log("dependency is down, waiting for it");
        lines.iter().filter(|line| line["dependency"] == "otlp").count()
    };
    world.broker.publish(BOOKINGS, booking("e-1", "user@example.com").to_string()).await;
    world.until_records(1).await;
    eventually("it is told", async || (down().await == 1).then_some(())).await;
    world.broker.publish(BOOKINGS, booking("e-2", "user@example.com").to_string()).await;
    world.until_records(2).await;
    assert_eq!(usher.terminate().await.code(), Some(0));
    assert_eq!(usher.find_log("dependency is down, waiting for it").len(), 1);

    let wrong = world.usher().set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let ended = wrong.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").output(&["run"]).await;
    assert_eq!(ended.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("OTEL_EXPORTER_OTLP_PROTOCOL"));
}
