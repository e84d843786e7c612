//! A collector of traces: takes OTLP over HTTP and keeps the spans.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;

use super::eventually;

type Received = Arc<Mutex<Vec<ResourceSpans>>>;

/// Listens until the test ends.
pub(crate) struct Collector {
    received: Received,
    port: u16,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let received = Received::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { received, port }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until there are this many spans of messages; gives all spans.
    pub(crate) async fn until_processed(&self, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans of messages"), async || {
            let spans = self.spans();
            let of_messages = spans.iter().filter(|span| span.name.starts_with("process "));
            (of_messages.count() >= count).then_some(spans)
        })
        .await
    }

    /// Everything received, as text.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.received.lock().expect("no panic"))
    }

    /// The resource that the spans are of.
    pub(crate) fn resource(&self, name: &str) -> String {
        let received = self.received.lock().expect("no panic");
        let resource = received.first().and_then(|one| one.resource.as_ref());
        resource.map(|resource| attribute(&resource.attributes, name)).unwrap_or_default()
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().expect("no panic");
        let scopes = received.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

async fn take(State(received): State<Received>, body: Bytes) -> StatusCode {
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) => {
            received.lock().expect("no panic").extend(request.resource_spans);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// An attribute as text; empty where it is missing.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|one| one.key == name);
    match found.and_then(|one| one.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}").replace("None", ""),
    }
}
