//! The exchanges and queues and their declarations.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::try_join_all;
use lapin::{
    Channel, Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::timeout;

use crate::{
    broker::{
        DEFER, Destination,
        queue_names::{
            DEAD, DUE, EVENTS, HELD, LOW, PARKED, POISON, STATUS, UNROUTABLE, delay, due,
        },
    },
    routing::{Priority, SourceQueue},
};

/// RabbitMQ 3.10 drops messages at the first requeue for -1, and 4.x drops after 20 requeues by
/// default: listing a queue by requeueing would empty it.
const DELIVERY_LIMIT: i64 = 1_000_000;

/// Exchanges and queues that have to exist.
#[derive(Debug)]
pub struct Topology {
    sources: Vec<SourceQueue>,
    waits: BTreeSet<Duration>,
    has_status_events: bool,
}

impl Topology {
    /// The source queues, and a delay queue for each wait.
    pub fn new(sources: &[SourceQueue], retry_schedule: &[Duration]) -> Self {
        let waits = retry_schedule.iter().copied().chain([DEFER]).collect();
        Self { sources: sources.to_vec(), waits, has_status_events: false }
    }

    /// With the exchange of status events, if they are on.
    #[must_use]
    pub fn with_status_events(self, is_on: bool) -> Self {
        Self { has_status_events: is_on, ..self }
    }

    /// The consumed queues, and whether each holds only low-priority mail.
    pub(crate) fn consumed(&self) -> impl Iterator<Item = (String, bool)> {
        let sources = self.sources.iter().map(|source| (source.name.clone(), false));
        let due = Priority::ALL.map(|priority| (due(priority), priority == Priority::Low));
        sources.chain(due).chain([LOW, UNROUTABLE].map(|queue| (queue.to_owned(), true)))
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = String> {
        let held = HELD.map(ToOwned::to_owned);
        let delays = self.waits.iter().map(|wait| delay(*wait));
        self.consumed().map(|(queue, _)| queue).chain(held).chain(delays)
    }

    /// Exchange and routing key of a republish.
    pub(crate) fn address(destination: Destination) -> (String, String) {
        match destination {
            Destination::Later(wait, priority) if !wait.is_zero() => {
                (delay(wait), priority.as_str().to_owned())
            }
            // The default exchange routes to the queue of this name.
            _ => (String::new(), destination.queue()),
        }
    }

    /// Declares everything. Safe to repeat. A source queue that is [away](is_away) is left out.
    ///
    /// # Errors
    /// The broker refuses, for instance because a queue exists with other arguments (406).
    pub(super) async fn declare(&self, connection: &Connection) -> lapin::Result<()> {
        let looking = self.sources.iter().map(|source| async move {
            let found = timeout(QUEUE_ANSWER, ensure_source(connection, &source.name)).await;
            found.unwrap_or(Ok(false)).map(|is_found| is_found.then_some(source))
        });
        let reachable = try_join_all(looking).await?;
        let channel = connection.create_channel().await?;
        for queue in [DEAD, POISON, PARKED, LOW, UNROUTABLE] {
            declare_queue(&channel, queue, []).await?;
        }
        declare_exchange(&channel, DUE, ExchangeKind::Direct, None).await?;
        for priority in Priority::ALL {
            let queue = due(priority);
            declare_queue(&channel, &queue, []).await?;
            bind(&channel, &queue, DUE, priority.as_str()).await?;
        }
        for wait in &self.waits {
            self.declare_delay(&channel, *wait).await?;
        }
        // The alternate exchange of an existing exchange can't be changed, so it keeps its name. Older
        // versions bind the poison queue to it, and bind it again at each connection while they run.
        declare_exchange(&channel, POISON, ExchangeKind::Fanout, None).await?;
        bind(&channel, UNROUTABLE, POISON, "").await?;
        channel
            .queue_unbind(POISON.into(), POISON.into(), "".into(), FieldTable::default())
            .await?;
        declare_exchange(&channel, EVENTS, ExchangeKind::Topic, Some(POISON)).await?;
        for source in reachable.into_iter().flatten() {
            for key in &source.bind {
                bind(&channel, &source.name, EVENTS, key).await?;
            }
        }
        if self.has_status_events {
            // Fails with 406 where somebody made an exchange of another type. Nothing is consumed then: the
            // status of no delivery could be published.
            declare_exchange(&channel, STATUS, ExchangeKind::Topic, None).await?;
        }
        channel.close(200, "declared".into()).await
    }

    /// Sees that the exchange of status events is a topic exchange, if there is one.
    pub(super) async fn check_status_exchange(connection: &Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let found = channel
            .exchange_declare(STATUS.into(), ExchangeKind::Topic, passive, FieldTable::default())
            .await;
        if found.is_err() {
            // Absent: it will be a topic exchange.
            return Ok(());
        }
        // A passive declaration does not compare types.
        declare_exchange(&channel, STATUS, ExchangeKind::Topic, None).await?;
        channel.close(200, "checked".into()).await
    }

    /// Sees that no source queue is a stream, which keeps what was consumed and gives a new consumer only
    /// what comes from then on: events would be lost, and told again. AMQP does not tell a queue's type;
    /// the broker does when the queue is declared as a stream: it is one, or "inequivalent arg
    /// 'x-queue-type'" is the answer, and nothing is made.
    ///
    /// # Errors
    /// One is a stream, or the broker did not answer.
    pub(super) async fn refuse_streams(
        sources: &[SourceQueue],
        connection: &Connection,
    ) -> lapin::Result<()> {
        let looking = sources.iter().map(|source| async {
            let looked = timeout(QUEUE_ANSWER, refuse_stream(&source.name, connection)).await;
            looked.unwrap_or(Ok(()))
        });
        try_join_all(looking).await.map(drop)
    }

    /// The source queues.
    pub(super) fn sources(&self) -> &[SourceQueue] {
        &self.sources
    }

    /// The fanout exchange in front keeps the routing key. After the delay, the key routes the
    /// dead-lettered message to the queue of its priority.
    async fn declare_delay(&self, channel: &Channel, wait: Duration) -> lapin::Result<()> {
        let name = delay(wait);
        let ttl = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let text = |text: &str| AMQPValue::LongString(text.into());
        let arguments = [
            ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
            ("x-dead-letter-exchange", text(DUE)),
            // Otherwise a fail-over between the two queues could lose the message.
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        declare_queue(channel, &name, arguments).await?;
        declare_exchange(channel, &name, ExchangeKind::Fanout, None).await?;
        bind(channel, &name, &name, "").await
    }
}

fn is_refused(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if refusal.kind() == &AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
}

/// How long one queue may take to answer: RabbitMQ 4 takes a minute for one whose node has just died.
pub(super) const QUEUE_ANSWER: Duration = Duration::from_secs(5);

/// Whether a queue exists on a node of the cluster that is down: declaring it, or consuming from it, is
/// answered by 404. All others can be used.
pub(super) fn is_away(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal)
        if refusal.kind() == &AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// Fails where the queue is a stream.
async fn refuse_stream(name: &str, connection: &Connection) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    if channel.queue_declare(name.into(), passive, FieldTable::default()).await.is_err() {
        // Absent: it will be none.
        return Ok(());
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let durable = QueueDeclareOptions::durable();
    match channel.queue_declare(name.into(), durable, arguments).await {
        Ok(_) => {
            channel.close(200, "found".into()).await?;
            let reason = format!(
                "{name} is a stream, from which events would be lost: usher needs a classic or a quorum queue"
            );
            return Err(std::io::Error::other(reason).into());
        }
        // The channel is closed by now.
        Err(error) if is_refused(&error) => tracing::info!(
            queue = name,
            "can't tell whether the queue is a stream: the login may not declare it"
        ),
        Err(error) => tracing::debug!(queue = name, %error, "the queue is no stream"),
    }
    Ok(())
}

/// Declares a source queue unless it exists, and returns whether it can be reached. Upstream may have
/// declared it with any arguments; a plain declaration keeps the plain declarations of publishers working.
async fn ensure_source(connection: &Connection, queue: &str) -> lapin::Result<bool> {
    // A failed passive declaration closes its channel.
    let throw_away = connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    if throw_away.queue_declare(queue.into(), passive, FieldTable::default()).await.is_ok() {
        throw_away.close(200, "found".into()).await?;
        return Ok(true);
    }
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions::durable();
    match channel.queue_declare(queue.into(), durable, FieldTable::default()).await {
        Ok(_) => {
            tracing::info!(queue, "a missing source queue was declared");
            channel.close(200, "declared".into()).await?;
            Ok(true)
        }
        Err(error) if is_away(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn declare_queue<const N: usize>(
    channel: &Channel,
    name: &str,
    arguments: [(&'static str, AMQPValue); N],
) -> lapin::Result<()> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    for (key, value) in arguments {
        table.insert(ShortString::from(key), value);
    }
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), table).await?;
    Ok(())
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    alternate: Option<&str>,
) -> lapin::Result<()> {
    let mut table = FieldTable::default();
    if let Some(alternate) = alternate {
        table.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
    }
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, durable, table).await
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
        .await
}
