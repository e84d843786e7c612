//! Publishing: persistent, mandatory, and confirmed one at a time on each channel, for under
//! bursts a returned message can be matched to another one's confirm.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleError, RecycleResult};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use super::{ANSWER_TIMEOUT, GOODBYE, Message, Topology, connect, headers, in_time, say_goodbye};
use crate::{broker::Republish, config::Endpoint};

/// Hand-offs under way at once.
const CHANNELS: usize = 16;

/// Memory for messages that are being published, in bytes: each is there two or three times until it
/// is on its way.
const PUBLISHED_BYTES: usize = 12 * 1024 * 1024;

pub(super) struct Publisher {
    channels: Pool<Channels>,
    memory: Semaphore,
}

struct Channels {
    server: Endpoint,
    topology: Arc<Topology>,
    connection: Mutex<Option<Connection>>,
}

impl Publisher {
    pub(super) fn new(server: Endpoint, topology: Arc<Topology>) -> Self {
        let manager = Channels { server, topology, connection: Mutex::new(None) };
        // Without timeouts there is nothing about a pool that could fail to be built.
        let channels = Pool::builder(manager).max_size(CHANNELS).build();
        let channels = channels.unwrap_or_else(|_| unreachable!());
        Self { channels, memory: Semaphore::new(PUBLISHED_BYTES) }
    }

    pub(super) async fn republish(&self, republish: &Republish) -> anyhow::Result<()> {
        let (exchange, key) = Topology::address(republish.destination);
        self.publish(&exchange, &key, &republish.body, headers::of_republish(republish)).await
    }

    pub(super) async fn publish_event(&self, message: &Message) -> anyhow::Result<()> {
        let properties = headers::of_event(&message.properties);
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
        let channel = self.channels.get().await.map_err(|error| anyhow!("{error}"))?;
        let confirm = confirm(&channel, exchange, key, body, properties);
        let outcome = match timeout(ANSWER_TIMEOUT, confirm).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                // A confirm that comes late must not be taken for the next one's.
                drop(Object::take(channel));
                // A queue of ours may have been deleted: the next try finds everything in place.
                self.channels.manager().declare_again().await;
                error
            }
            Err(_) => {
                drop(Object::take(channel));
                self.start_over().await;
                anyhow!("no confirm within {ANSWER_TIMEOUT:?}")
            }
        };
        Err(outcome.context(format!("publishing to exchange {exchange:?} with key {key:?}")))
    }

    /// Leaves a connection that fell silent, with all channels, though it may look well: a network
    /// that drops everything tells nobody.
    async fn start_over(&self) {
        self.channels.manager().connection.lock().await.take();
        self.channels.retain(|_, _| false);
    }

    /// How many messages wait in each queue.
    pub(super) async fn depths(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let channel = self.channels.get().await.map_err(|error| anyhow!("{error}"))?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut depths = Vec::new();
        for queue in self.channels.manager().topology.queues() {
            let looked =
                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
            match in_time(looked).await {
                Ok(found) => depths.push((queue, found.message_count())),
                Err(error) => {
                    // One that was deleted; the next look finds everything in place.
                    drop(Object::take(channel));
                    self.channels.manager().declare_again().await;
                    return Err(error);
                }
            }
        }
        Ok(depths)
    }

    /// How the channels are used.
    pub(super) fn usage(&self) -> impl Fn() -> deadpool::Status + Send + Sync + 'static {
        let channels = self.channels.clone();
        move || channels.status()
    }

    pub(super) async fn close(&self) {
        // Nothing is under way any more, or what is waits for an answer that nobody else waits for.
        let current = timeout(GOODBYE, self.channels.manager().connection.lock()).await;
        if let Some(connection) = current.ok().and_then(|mut current| current.take()) {
            say_goodbye(&connection, "done").await;
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

impl Channels {
    async fn declare_again(&self) {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|one| one.status().connected())
            && let Err(error) = in_time(self.topology.declare(connection)).await
        {
            tracing::debug!(%error, "declaring again");
            // The next one declares as well.
            current.take();
        }
    }

    async fn open(&self, current: &mut Option<Connection>) -> anyhow::Result<Channel> {
        let connection = match current {
            Some(connection) if connection.status().connected() => connection,
            _ => {
                let (fresh, _) = connect(&self.server, "publish", None).await?;
                // A queue that was deleted would make every mandatory publish come back.
                in_time(self.topology.declare(&fresh)).await?;
                current.insert(fresh)
            }
        };
        in_time(async {
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
            // It has no more to say, or says nothing: everybody waits for this lock.
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
