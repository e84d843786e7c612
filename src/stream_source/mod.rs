//! Forwards entries of Redis Streams to RabbitMQ, each at least once. From there they are handled
//! like every other event. An entry is acknowledged after the broker's confirm. One that is
//! forwarded twice has the same event id, which the ledger recognises.

mod entry;
mod streams;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream::iter};
use redis::RedisError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{entry::Entry, streams::Streams};
use crate::{
    broker::{BrokerError, Message, amqp::AmqpBroker},
    config::Stream,
    event,
    health::{Backoff, Dependency},
    metrics::Metrics,
    reason::of_redis,
    routing::{Identity, RoutingTable},
};

/// Entries of one stream taken at once, which bounds their memory.
const BATCH: usize = 32;
/// Publishes in progress at once, on the channels that republishes use too.
const CONCURRENT_PUBLISHES: usize = 8;
/// A Redis that is back is found within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

pub struct StreamSource {
    streams: Streams,
    routing: ArcSwap<RoutingTable>,
    identity: Identity,
    broker: Arc<AmqpBroker>,
    health: Dependency,
    metrics: Metrics,
    idle_after: Duration,
}

/// Why entries could not be forwarded now. The entries are forwarded later.
#[derive(Debug, thiserror::Error)]
pub enum StreamSourceError {
    #[error("the stream did not answer: {}", of_redis(.0))]
    Stream(#[from] RedisError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl StreamSource {
    /// Connects lazily. Entries that stay unacknowledged for `idle_after` were left by an instance
    /// that is gone.
    pub fn new(
        stream: &Stream,
        routing: Arc<RoutingTable>,
        identity: Identity,
        broker: Arc<AmqpBroker>,
        idle_after: Duration,
        health: Dependency,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let streams = Streams::new(stream)?;
        let routing = ArcSwap::new(routing);
        Ok(Self { streams, routing, identity, broker, health, metrics, idle_after })
    }

    /// Other routes count from now on. Their queues are those of before.
    pub(crate) fn route_by(&self, routing: Arc<RoutingTable>) {
        self.routing.store(routing);
    }

    /// Forwards until stopped, including everything taken by then.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::up_to(LONGEST_WAIT);
        while !stop.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.session(&stop).await {
                self.health.down(&error);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(backoff.after(began.elapsed())) => {}
                }
            }
        }
    }

    /// Forwards at most `limit` entries that are waiting now. Returns the ids of their events in the
    /// audit.
    ///
    /// # Errors
    /// Redis or RabbitMQ did not answer. Entries that were taken are forwarded later.
    pub async fn forward(&self, limit: usize) -> Result<Vec<String>, StreamSourceError> {
        self.streams.create_groups().await?;
        let mut entries = self.streams.take_over(self.idle_after, limit).await?;
        entries.extend(self.streams.take(limit.saturating_sub(entries.len())).await?);
        let Published { events, entries, failed } = self.publish(entries).await;
        self.settle(&entries).await?;
        match failed {
            Some((error, _)) => Err(error.into()),
            None => Ok(events),
        }
    }

    /// From creating the groups to the first failure or the stop.
    async fn session(&self, stop: &CancellationToken) -> Result<(), RedisError> {
        self.streams.create_groups().await?;
        self.health.up();
        let mut checked_at = None::<Instant>;
        while !stop.is_cancelled() {
            let mut entries = Vec::new();
            if checked_at.is_none_or(|checked_at| checked_at.elapsed() > self.idle_after / 2) {
                self.tidy().await?;
                entries = self.streams.take_over(self.idle_after, BATCH).await?;
                crash_point!("after_stream_take_over");
                // Repeated until nothing is left behind.
                checked_at = entries.is_empty().then(Instant::now);
            }
            if entries.is_empty() {
                entries = self.streams.wait(BATCH).await?;
            }
            if !entries.is_empty() {
                crash_point!("after_stream_read");
                self.forward_all(entries, stop).await?;
            }
        }
        Ok(())
    }

    /// Trims what an instance acknowledged before it was killed.
    async fn tidy(&self) -> Result<(), RedisError> {
        for key in self.streams.keys() {
            self.streams.trim(key).await?;
        }
        self.metrics.streams(self.streams.lengths().await?);
        Ok(())
    }

    /// Retries until the broker has all of them. When stopped, it leaves the rest to the next
    /// instance.
    async fn forward_all(
        &self,
        mut entries: Vec<Entry>,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        let mut backoff = Backoff::default();
        loop {
            let published = self.publish(entries).await;
            self.settle(&published.entries).await?;
            let Some((error, failed)) = published.failed else { return Ok(()) };
            tracing::warn!(%error, entries = failed.len(), "entries could not be forwarded, trying again");
            entries = failed;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(backoff.step()) => {}
            }
        }
    }

    async fn publish(&self, entries: Vec<Entry>) -> Published {
        let publishing = iter(entries).map(async |entry| {
            let (event, message) = self.message(&entry);
            let outcome = self.broker.publish_event(&message).await;
            if outcome.is_ok() {
                crash_point!("after_stream_publish");
                self.metrics.forwarded(&entry.key, message.queue);
            }
            (entry, event, outcome)
        });
        let mut published = Published::default();
        // In order as far as possible.
        let mut publishing = publishing.buffered(CONCURRENT_PUBLISHES);
        while let Some((entry, event, outcome)) = publishing.next().await {
            match (outcome, &mut published.failed) {
                (Ok(()), _) => {
                    published.events.push(event);
                    published.entries.push(entry);
                }
                (Err(_), Some((_, failed))) => failed.push(entry),
                (Err(error), none) => *none = Some((error, vec![entry])),
            }
        }
        published
    }

    /// The event's id in the audit, and the message for the queue of its routes. An unknown event
    /// type goes to the first queue, where the delivery line rejects it with a reason.
    fn message(&self, entry: &Entry) -> (String, Message) {
        let (body, properties) = (entry.body(), entry.properties());
        let event = event::parse(&body, &properties, "");
        let routing = self.routing.load();
        let queue = event.as_ref().ok().and_then(|event| routing.queue_of(&event.kind));
        let queue = queue.or_else(|| Some(&routing.queues().first()?.name));
        let queue = queue.unwrap_or_default().to_owned();
        let id = match event {
            Ok(event) => event.id.value,
            Err(_) => self.identity.rejected(&body, &queue).to_string(),
        };
        let message = Message {
            queue,
            body,
            properties,
            redelivered: false,
            received_at: crate::clock::now(),
            delivery_headers: None,
            is_authentic: true,
        };
        (id, message)
    }

    /// Acknowledges entries that the broker has, and trims each stream up to what every group has
    /// read.
    async fn settle(&self, entries: &[Entry]) -> Result<(), RedisError> {
        let mut streams = BTreeMap::<&str, Vec<&str>>::new();
        for entry in entries {
            streams.entry(&entry.key).or_default().push(&entry.id);
        }
        for (key, ids) in streams {
            tracing::debug!(stream = key, entries = ids.len(), "entries forwarded");
            self.streams.acknowledge(key, &ids).await?;
            crash_point!("after_stream_ack");
            self.streams.trim(key).await?;
            crash_point!("after_stream_trim");
        }
        Ok(())
    }
}

/// Outcome of publishing a batch.
#[derive(Default)]
struct Published {
    /// The ids of the events that the broker has.
    events: Vec<String>,
    /// The entries of these events.
    entries: Vec<Entry>,
    /// The other entries, with the error.
    failed: Option<(BrokerError, Vec<Entry>)>,
}

/// Checks that the streams can be read. Returns a summary with their lengths.
pub async fn test(stream: &Stream) -> Result<String, String> {
    let streams = Streams::new(stream)?;
    let lengths = streams.lengths().await.map_err(|error| error.to_string())?;
    let mut lines = Vec::new();
    for (key, length) in lengths {
        let text = format!("{key} has {length} entries");
        // Another program may have processed them long ago.
        let is_new = length > 0 && !streams.has_group(&key).await.map_err(|e| e.to_string())?;
        lines.push(if is_new { format!("{text}, a first start forwards them all") } else { text });
    }
    Ok(lines.join("; "))
}
