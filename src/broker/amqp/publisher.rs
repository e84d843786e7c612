//! Publishes: persistent, mandatory, one unconfirmed message at a time on each channel. With
//! several, a returned message could be matched to another message's confirm.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use futures_util::future::try_join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use super::{
    ANSWER_TIMEOUT, CLOSE_TIMEOUT, Message, Topology, close_gracefully, connect, headers,
    with_timeout,
};
use crate::{
    broker::{Republish, StatusMessage, queue_names::STATUS},
    config::Endpoint,
    reason::explained,
    routing::Identity,
};

/// Publishes in progress at once.
const CHANNELS: usize = 16;

/// Memory for messages that are being published, in bytes: each is there two or three times until it
/// is on its way.
const PUBLISHED_BYTES: usize = 12 * 1024 * 1024;

pub(super) struct Publisher {
    channels: Pool<Channels>,
    identity: Identity,
    memory: Semaphore,
}

struct Channels {
    server: Endpoint,
    topology: Arc<Topology>,
    connection: Mutex<Option<Connection>>,
}

impl Publisher {
    pub(super) fn new(server: Endpoint, topology: Arc<Topology>, identity: Identity) -> Self {
        let manager = Channels { server, topology, connection: Mutex::new(None) };
        // Building can only fail if timeouts are set without a runtime.
        let channels = Pool::builder(manager).max_size(CHANNELS).build();
        let channels = channels.unwrap_or_else(|_| unreachable!());
        Self { channels, identity, memory: Semaphore::new(PUBLISHED_BYTES) }
    }

    pub(super) async fn republish(&self, republish: &Republish) -> anyhow::Result<()> {
        let (exchange, key) = Topology::address(republish.destination);
        let properties = headers::republish_properties(republish, &self.identity);
        self.publish(&exchange, &key, &republish.body, properties).await
    }

    pub(super) async fn publish_event(&self, message: &Message) -> anyhow::Result<()> {
        let properties = headers::event_properties(&message.properties);
        self.publish("", &message.queue, &message.body, properties).await
    }

    async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> anyhow::Result<()> {
        // Fewer than 2^32.
        let bytes = (body.len() + 1024).min(PUBLISHED_BYTES) as u32;
        let _memory = self.memory.acquire_many(bytes).await?;
        let channel = self.channel().await?;
        let confirm = confirm(&channel, exchange, key, body, properties);
        let outcome = match timeout(ANSWER_TIMEOUT, confirm).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                // A late confirm must not be taken for that of the next message.
                drop(Object::take(channel));
                // The target queue may have been deleted: after this, the next try succeeds.
                self.channels.manager().declare_again().await;
                error
            }
            Err(_) => {
                drop(Object::take(channel));
                self.drop_connection().await;
                anyhow!("no confirm within {ANSWER_TIMEOUT:?}")
            }
        };
        Err(outcome.context(format!("publishing to exchange {exchange:?} with key {key:?}")))
    }

    /// Publishes status events on one channel, then waits for all confirms. They are not mandatory, so none
    /// is returned.
    pub(super) async fn publish_status(
        &self,
        messages: &[StatusMessage],
    ) -> Vec<anyhow::Result<()>> {
        let failed = |reason: &dyn std::fmt::Display| {
            let failure = || anyhow!("publishing to exchange {STATUS:?}: {reason}");
            messages.iter().map(|_| Err(failure())).collect()
        };
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) => return failed(&explained(&error)),
        };
        match timeout(ANSWER_TIMEOUT, confirm_all(&channel, messages)).await {
            Ok(Ok(results)) => results,
            Ok(Err(error)) => {
                drop(Object::take(channel));
                // The exchange may have been deleted: after this, the next try succeeds.
                self.channels.manager().declare_again().await;
                failed(&explained(&error.into()))
            }
            Err(_) => {
                drop(Object::take(channel));
                self.drop_connection().await;
                failed(&format_args!("no confirm within {ANSWER_TIMEOUT:?}"))
            }
        }
    }

    async fn channel(&self) -> anyhow::Result<Object<Channels>> {
        self.channels.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            other => anyhow!("{other}"),
        })
    }

    /// Drops a silent connection with all channels. It may look healthy: a network that drops
    /// everything closes nothing.
    async fn drop_connection(&self) {
        self.channels.manager().connection.lock().await.take();
        self.channels.retain(|_, _| false);
    }

    /// The number of messages in each queue.
    pub(super) async fn depths(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut depths = Vec::new();
        for queue in self.channels.manager().topology.queues() {
            let declared =
                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
            match with_timeout(declared).await {
                Ok(found) => depths.push((queue, found.message_count())),
                Err(error) => {
                    // A queue was deleted: after this, the next call succeeds.
                    drop(Object::take(channel));
                    self.channels.manager().declare_again().await;
                    return Err(error);
                }
            }
        }
        Ok(depths)
    }

    /// Reads the current use of the channel pool.
    pub(super) fn pool_status(&self) -> impl Fn() -> deadpool::Status + Send + Sync + 'static {
        let channels = self.channels.clone();
        move || channels.status()
    }

    pub(super) async fn close(&self) {
        // A publish that is still in progress waits for an answer that nobody needs any more.
        let current = timeout(CLOSE_TIMEOUT, self.channels.manager().connection.lock()).await;
        if let Some(connection) = current.ok().and_then(|mut current| current.take()) {
            close_gracefully(&connection, "done").await;
        }
        self.channels.close();
    }
}

async fn confirm(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    match publish.await?.await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            bail!("returned: {} {}", returned.reply_code, returned.reply_text)
        }
        Confirmation::Nack(None) => bail!("refused by the broker"),
        Confirmation::NotRequested => bail!("the channel has no confirms"),
    }
}

/// The result of each message; an error if the channel is lost.
async fn confirm_all(
    channel: &Channel,
    messages: &[StatusMessage],
) -> lapin::Result<Vec<anyhow::Result<()>>> {
    // All at once: each call ends when its frames are written, so one after the other would be a system
    // call and a change of threads for each message.
    let confirms = try_join_all(messages.iter().map(|message| {
        let properties = headers::status_properties(message);
        let (key, options) = (message.key.as_str().into(), BasicPublishOptions::default());
        channel.basic_publish(STATUS.into(), key, options, &message.body, properties)
    }))
    .await?;
    let mut results = Vec::with_capacity(messages.len());
    for (confirm, message) in confirms.into_iter().zip(messages) {
        results.push(match confirm.await? {
            Confirmation::Ack(_) => Ok(()),
            _ => Err(anyhow!(
                "the broker refused a status event with key {:?}: a queue bound to {STATUS} is full or unavailable",
                message.key
            )),
        });
    }
    Ok(results)
}

impl Channels {
    async fn declare_again(&self) {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|one| one.status().connected())
            && let Err(error) = with_timeout(self.topology.declare(connection)).await
        {
            tracing::debug!(%error, "the queues could not be declared again");
            // The next connection declares everything.
            current.take();
        }
    }

    async fn open(&self, current: &mut Option<Connection>) -> anyhow::Result<Channel> {
        let connection = match current {
            Some(connection) if connection.status().connected() => connection,
            _ => {
                let (fresh, _) = connect(&self.server, "publish", None).await?;
                // If a queue was deleted, every mandatory publish to it would be returned.
                with_timeout(self.topology.declare(&fresh)).await?;
                current.insert(fresh)
            }
        };
        with_timeout(async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        })
        .await
    }
}

impl Manager for Channels {
    type Type = Channel;
    type Error = anyhow::Error;

    async fn create(&self) -> anyhow::Result<Channel> {
        let mut current = self.connection.lock().await;
        let opened = self.open(&mut current).await;
        if opened.is_err() {
            // The connection is broken or silent, and every publisher waits for this lock.
            current.take();
        }
        opened
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<anyhow::Error> {
        if channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the channel is closed"))
        }
    }
}
