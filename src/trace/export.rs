//! Exports spans to a collector: OTLP, protobuf over HTTP. The SDK reads the `OTEL_*` variables,
//! such as endpoint, headers, timeouts, batches and sampling.

use std::{env, time::Duration};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, resource::EnvResourceDetector, trace::SdkTracerProvider};
use tokio::{runtime::Handle, time::timeout};

use crate::health::Dependency;

/// How long the collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// A provider that exports spans, if the environment names a collector.
pub(super) fn provider(instance: &str) -> anyhow::Result<Option<SdkTracerProvider>> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    if !endpoints.iter().any(|name| set(name).is_some()) {
        return Ok(None);
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(protocol) = set(name).filter(|protocol| protocol != "http/protobuf") {
            anyhow::bail!("{name}: {protocol} is not supported, only http/protobuf");
        }
    }
    let tls = HttpsConnectorBuilder::new().with_native_roots()?;
    let client = Client {
        http: legacy::Client::builder(TokioExecutor::new())
            .build(tls.https_or_http().enable_http1().build()),
        runtime: Handle::current(),
        collector: Dependency::new("otlp"),
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build()?;
    let resource = Resource::builder_empty()
        .with_service_name("usher")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()));
    let resource = match set("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name),
        None => resource,
    };
    let provider = SdkTracerProvider::builder().with_resource(resource.build());
    Ok(Some(provider.with_batch_exporter(exporter).build()))
}

/// The HTTP client for the collector.
#[derive(Debug)]
struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// The SDK calls from a thread of its own.
    runtime: Handle,
    /// Logs one line when the collector goes down.
    collector: Dependency,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answered = self.http.request(request.map(Full::new));
        let answer = async {
            let (head, body) = answered.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok::<_, HttpError>(Response::from_parts(head, body.to_bytes()))
        };
        let answer = self.runtime.spawn(async { timeout(TIMEOUT, answer).await }).await?;
        let answer = answer.unwrap_or_else(|elapsed| Err(elapsed.into()));
        match &answer {
            Ok(answer) if answer.status().is_success() => self.collector.up(),
            Ok(answer) => self.collector.down(&answer.status()),
            Err(error) => self.collector.down(&chain(&**error)),
        }
        answer
    }
}

/// hyper's own text is `client error (Connect)`; the reason is in the sources.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        words = format!("{words}: {error}");
        below = error.source();
    }
    words
}
