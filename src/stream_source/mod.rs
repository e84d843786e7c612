//! The bridge: what services write into Redis Streams goes to RabbitMQ, each entry at least once,
//! and from there the way of every other event. An entry is acknowledged after the broker's confirm;
//! one that is published twice is the same event twice, which the ledger knows.

mod entry;
mod streams;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::iter};
use jiff::Timestamp;
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
    routing::{Identity, RoutingTable},
};

/// Entries of a stream taken at once, so what bounds the memory that they take.
const BATCH: usize = 32;
/// Publishes under way at once; the channels are those of the hand-offs.
const AT_ONCE: usize = 8;
/// A session that lasted for longer was a good one: the next failure is a new one.
const STEADY: Duration = Duration::from_secs(10);

/// From Redis Streams into RabbitMQ.
pub struct StreamSource {
    streams: Streams,
    routing: Arc<RoutingTable>,
    identity: Identity,
    broker: Arc<AmqpBroker>,
    health: Dependency,
    metrics: Metrics,
    left_after: Duration,
}

/// Why entries could not be forwarded now; they are forwarded later.
#[derive(Debug, thiserror::Error)]
pub enum StreamSourceError {
    /// Redis.
    #[error("the stream did not answer: {0}")]
    Stream(#[from] RedisError),
    /// RabbitMQ.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl StreamSource {
    /// Connects when there is something to ask. What was taken and not acknowledged for as long as
    /// `left_after` was left by an instance that is gone.
    ///
    /// # Errors
    /// The URL or the certificates can't be used.
    pub fn new(
        stream: &Stream,
        routing: Arc<RoutingTable>,
        identity: Identity,
        broker: Arc<AmqpBroker>,
        left_after: Duration,
        health: Dependency,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let streams = Streams::new(stream)?;
        Ok(Self { streams, routing, identity, broker, health, metrics, left_after })
    }

    /// Forwards until stopped; what it has taken by then, it still forwards.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.session(&stop).await {
                if began.elapsed() > STEADY {
                    backoff = Backoff::default();
                }
                self.health.down(&error);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(backoff.step()) => {}
                }
            }
        }
    }

    /// Forwards at most so many entries that wait now; gives the ids that their events have in the
    /// audit.
    ///
    /// # Errors
    /// Redis or RabbitMQ did not answer. What had been taken is forwarded later.
    pub async fn forward(&self, most: usize) -> Result<Vec<String>, StreamSourceError> {
        self.streams.create_groups().await?;
        let mut entries = self.streams.take_over(self.left_after, most).await?;
        entries.extend(self.streams.take(most.saturating_sub(entries.len())).await?);
        let Published { events, entries, refused } = self.publish(entries).await;
        self.settle(&entries).await?;
        match refused {
            Some((error, _)) => Err(error.into()),
            None => Ok(events),
        }
    }

    /// From the making of the groups to the first failure, or to the stop.
    async fn session(&self, stop: &CancellationToken) -> Result<(), RedisError> {
        self.streams.create_groups().await?;
        self.health.up();
        let mut looked = None::<Instant>;
        while !stop.is_cancelled() {
            let mut entries = Vec::new();
            if looked.is_none_or(|looked| looked.elapsed() > self.left_after / 2) {
                self.tidy().await?;
                entries = self.streams.take_over(self.left_after, BATCH).await?;
                crash_point!("after_stream_take_over");
                // Until there is nothing left behind.
                looked = entries.is_empty().then(Instant::now);
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

    /// What an instance acknowledged that was killed before it could trim.
    async fn tidy(&self) -> Result<(), RedisError> {
        for key in self.streams.keys() {
            self.streams.trim(key).await?;
        }
        self.metrics.streams(self.streams.lengths().await?);
        Ok(())
    }

    /// Until the broker has them all, or until stopped: then the next instance finds the rest.
    async fn forward_all(
        &self,
        mut entries: Vec<Entry>,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        let mut backoff = Backoff::default();
        loop {
            let published = self.publish(entries).await;
            self.settle(&published.entries).await?;
            let Some((error, refused)) = published.refused else { return Ok(()) };
            tracing::warn!(%error, entries = refused.len(), "entries could not be forwarded, trying again");
            entries = refused;
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
        // In their order, as far as it can be kept.
        let mut publishing = publishing.buffered(AT_ONCE);
        while let Some((entry, event, outcome)) = publishing.next().await {
            match (outcome, &mut published.refused) {
                (Ok(()), _) => {
                    published.events.push(event);
                    published.entries.push(entry);
                }
                (Err(_), Some((_, refused))) => refused.push(entry),
                (Err(error), none) => *none = Some((error, vec![entry])),
            }
        }
        published
    }

    /// The event's id, as the audit will know it, and the message to the queue that the routes have for it. What they don't know
    /// goes to the first, where the pipeline says what is wrong with it.
    fn message(&self, entry: &Entry) -> (String, Message) {
        let (body, properties) = (entry.body(), entry.properties());
        let event = event::parse(&body, &properties, "");
        let queue = event.as_ref().ok().and_then(|event| self.routing.queue_of(&event.kind));
        let queue = queue.or_else(|| Some(&self.routing.queues().first()?.name));
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
            received_at: Timestamp::now(),
            delivery_headers: None,
        };
        (id, message)
    }

    /// What the broker has is acknowledged, and goes from its stream as soon as every group has it.
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

/// What came of a batch.
#[derive(Default)]
struct Published {
    /// The ids of the events that the broker has.
    events: Vec<String>,
    /// Their entries.
    entries: Vec<Entry>,
    /// The rest, and why.
    refused: Option<(BrokerError, Vec<Entry>)>,
}

/// Looks whether the streams can be read; says how many entries they have.
///
/// # Errors
/// Why they can't.
pub async fn test(stream: &Stream) -> Result<String, String> {
    let streams = Streams::new(stream)?;
    let lengths = streams.lengths().await.map_err(|error| error.to_string())?;
    let mut told = Vec::new();
    for (key, length) in lengths {
        let text = format!("{key} has {length} entries");
        // Another program may have worked them off long ago.
        let is_new = length > 0 && !streams.has_group(&key).await.map_err(|e| e.to_string())?;
        told.push(if is_new { format!("{text}, a first start forwards them all") } else { text });
    }
    Ok(told.join("; "))
}
