//! RabbitMQ. Only this module uses lapin.
//!
//! One connection consumes and another publishes: when the broker runs out of memory, it blocks
//! connections that publish, including their acknowledgements. lapin's own recovery is off. A lost
//! connection is replaced by a new one, and settling on the old one is not an error.

mod acks;
mod consumer;
mod dead_letter_reader;
mod frame_filter;
#[cfg(fuzzing)]
pub mod fuzzing;
mod headers;
mod intake;
mod publisher;
mod status_tail;
mod topology;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{
    Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::FieldTable,
    uri::AMQPUri,
};
use tokio::sync::Semaphore;
use url::{Host, Url};

pub use consumer::{Consumers, WORK_KIB};
pub use dead_letter_reader::{AckHandle, DeadLetterQueue, DeadLetterReader};
pub use status_tail::StatusTail;
pub use topology::Topology;

pub use intake::RECEIVED_BYTES;

use self::{intake::Intake, publisher::Publisher};
use super::{
    Broker, BrokerError, Message, Republish, StatusMessage, StatusPublisher,
    queue_names::{self, HELD},
};
use crate::{
    config::{Endpoint, amqp_urls},
    metrics::Metrics,
    routing::{Identity, SourceQueue},
    tls::Pem,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker may take to answer. A connection that is silent for longer is closed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds between heartbeats, unless `RABBITMQ_URL` or the broker asks for less. A network that
/// drops everything is noticed after twice that. <https://www.rabbitmq.com/docs/heartbeats>
/// recommends 5 to 20.
const HEARTBEAT: u16 = 20;
/// How long the broker may take to close a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The publishing side of the broker.
pub struct AmqpBroker {
    publisher: Publisher,
}

impl AmqpBroker {
    /// Connects lazily.
    pub fn new(server: Endpoint, topology: Arc<Topology>, identity: Identity) -> Self {
        Self { publisher: Publisher::new(server, topology, identity) }
    }

    /// Reports the use of the channel pool.
    pub fn with_metrics(self, metrics: &Metrics) -> Self {
        metrics.watch_pool("publish", self.publisher.pool_status());
        self
    }

    /// The number of messages in each queue.
    pub async fn depths(&self) -> Result<Vec<(String, u32)>, BrokerError> {
        self.publisher.depths().await.map_err(BrokerError)
    }

    /// The number of messages that wait to be processed; dead-letter queues are not counted.
    pub async fn waiting(&self) -> Result<u64, BrokerError> {
        let depths = self.depths().await?;
        let waiting = depths.iter().filter(|(queue, _)| !HELD.contains(&queue.as_str()));
        Ok(waiting.map(|(_, depth)| u64::from(*depth)).sum())
    }

    /// Publishes an event to a source queue and waits for the confirm.
    pub async fn publish_event(&self, message: &Message) -> Result<(), BrokerError> {
        self.publisher.publish_event(message).await.map_err(BrokerError)
    }

    /// Closes the connection gracefully.
    pub async fn close(&self) {
        self.publisher.close().await;
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn republish(&self, republish: &Republish) -> Result<(), BrokerError> {
        self.publisher.republish(republish).await.map_err(BrokerError)
    }
}

#[async_trait]
impl StatusPublisher for AmqpBroker {
    async fn publish_status(&self, messages: Vec<StatusMessage>) -> Vec<Result<(), BrokerError>> {
        let results = self.publisher.publish_status(&messages).await;
        results.into_iter().map(|result| result.map_err(BrokerError)).collect()
    }
}

/// The number of messages in a queue that nobody has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    pub name: String,
    /// `None` if there is no such queue.
    pub messages: Option<u32>,
}

impl QueueDepth {
    /// What the queue is for.
    pub fn kind(&self) -> &'static str {
        queue_names::kind(&self.name)
    }
}

/// Connects, counts the messages in each queue and disconnects. Nothing is declared.
pub async fn queue_depths(
    server: &Endpoint,
    topology: &Topology,
) -> anyhow::Result<Vec<QueueDepth>> {
    let (connection, _) = connect(server, "status", None).await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let mut channel = with_timeout(connection.create_channel()).await?;
    let mut depths = Vec::new();
    for name in topology.queues() {
        let declared = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
        let messages = match with_timeout(declared).await {
            Ok(queue) => Some(queue.message_count()),
            Err(error) if !connection.status().connected() => return Err(error),
            Err(error) => {
                // The refusal has closed the channel.
                tracing::debug!(queue = name, %error, "the queue can't be looked at");
                channel = with_timeout(connection.create_channel()).await?;
                None
            }
        };
        depths.push(QueueDepth { name, messages });
    }
    close_gracefully(&connection, "done").await;
    Ok(depths)
}

/// Connects, looks at the source queues and disconnects.
pub async fn test(
    server: &Endpoint,
    sources: &[SourceQueue],
    has_status_events: bool,
) -> anyhow::Result<()> {
    let (connection, _) = connect(server, "check", None).await?;
    with_timeout(Topology::refuse_streams(sources, &connection)).await?;
    if has_status_events {
        with_timeout(Topology::check_status_exchange(&connection)).await?;
    }
    close_gracefully(&connection, "done").await;
    Ok(())
}

/// Closes a connection gracefully if the broker cooperates. Drop its channels afterwards: lapin
/// fails a connection that is closed while one of its channels is closing, and the close is then
/// never answered.
async fn close_gracefully(connection: &Connection, reason: &str) {
    let goodbye = connection.close(200, reason.into());
    match tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await {
        Ok(Ok(())) => {}
        // The broker is gone already.
        Ok(Err(error)) => {
            tracing::debug!(reason, %error, "a connection was lost before it was closed");
        }
        Err(_) => tracing::debug!(reason, "the broker did not answer a connection close"),
    }
}

async fn with_timeout<T>(answer: impl Future<Output = lapin::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    Ok(answer.map_err(|_| anyhow::anyhow!("no answer within {ANSWER_TIMEOUT:?}"))??)
}

/// Connects to the first server of the URL that answers. The memory for what is received is counted
/// where one is given.
async fn connect(
    server: &Endpoint,
    purpose: &str,
    received: Option<Arc<Semaphore>>,
) -> anyhow::Result<(Connection, Arc<Intake>)> {
    // Read for each connection, since certificates are renewed while usher runs.
    let pem = Pem::read(&server.tls).map_err(anyhow::Error::msg)?;
    let tls = OwnedTLSConfig {
        identity: pem.identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
        cert_chain: pem.ca.map(|ca| String::from_utf8_lossy(&ca).into_owned()),
    };
    let intake = Intake::new(received);
    let mut refusals = Vec::new();
    for uri in addresses(server)? {
        let name = format!("usher {purpose} {}", env!("CARGO_PKG_VERSION"));
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let host = uri.authority.host.clone();
        let connect = Box::pin(intake::connect(uri, properties, tls.clone(), intake.clone()));
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(connection)) => return Ok((connection, intake)),
            Ok(Err(error)) => refusals.push((host, error.to_string())),
            Err(_) => refusals.push((host, format!("no answer within {CONNECT_TIMEOUT:?}"))),
        }
    }
    match refusals.as_slice() {
        [(_, only)] => anyhow::bail!("{only}"),
        all => {
            let all = all.iter().map(|(host, reason)| format!("{host}: {reason}"));
            anyhow::bail!("{}", all.collect::<Vec<_>>().join("; "))
        }
    }
}

/// Where the broker is, by each of the URL's hosts.
fn addresses(server: &Endpoint) -> anyhow::Result<Vec<AMQPUri>> {
    let urls = amqp_urls(server.url.expose()).map_err(anyhow::Error::msg)?;
    let address = |url: Url| {
        let mut uri: AMQPUri = url.as_str().parse().map_err(anyhow::Error::msg)?;
        // lapin knows no address in brackets, and would take the own machine for it.
        if let Some(Host::Ipv6(address)) = url.host() {
            uri.authority.host = address.to_string();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(uri)
    };
    urls.into_iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, TlsFiles};

    #[test]
    fn each_host_of_the_url_is_an_address_and_none_becomes_localhost() {
        let read = |url: &str| {
            let server = Endpoint { url: Secret::new(url), tls: TlsFiles::default() };
            let found = addresses(&server).unwrap().into_iter().map(|uri| {
                let (who, at) = (uri.authority.userinfo, uri.authority.host);
                (who.username, who.password, at, uri.authority.port, uri.vhost)
            });
            found.collect::<Vec<_>>()
        };
        let at = |user: &str, password: &str, host: &str, port, vhost: &str| {
            (user.into(), password.into(), host.into(), port, vhost.into())
        };
        assert_eq!(
            read("amqp://user:password@[2001:db8::1]:5673/%2f"),
            [at("user", "password", "2001:db8::1", 5673, "/")]
        );
        assert_eq!(read("amqps://[::1]/films"), [at("guest", "guest", "::1", 5671, "films")]);
        assert_eq!(
            read("amqp://a%40b:p%2Fw%3A%5B@one:1,[::2],192.0.2.3:3/a%2Fb?heartbeat=5"),
            [
                at("a@b", "p/w:[", "one", 1, "a/b"),
                at("a@b", "p/w:[", "::2", 5672, "a/b"),
                at("a@b", "p/w:[", "192.0.2.3", 3, "a/b"),
            ]
        );
    }
}
