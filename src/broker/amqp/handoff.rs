//! Publishing: persistent, mandatory, and confirmed one at a time on each channel, for under
//! bursts a returned message can be matched to another one's confirm.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use deadpool::managed::{Manager, Metrics, Object, Pool, RecycleError, RecycleResult};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{sync::Mutex, time::timeout};

use super::{Message, Topology, connect, headers, say_goodbye};
use crate::{broker::HandOff, config::Endpoint};

/// Hand-offs under way at once.
const CHANNELS: usize = 16;
/// How long the broker may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Publisher {
    channels: Pool<Channels>,
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
        Self { channels: channels.unwrap_or_else(|_| unreachable!()) }
    }

    pub(super) async fn hand_off(&self, hand_off: &HandOff) -> anyhow::Result<()> {
        let (exchange, key) = Topology::address(hand_off.destination);
        self.publish(&exchange, &key, &hand_off.body, headers::of_hand_off(hand_off)).await
    }

    pub(super) async fn publish_event(&self, message: &Message) -> anyhow::Result<()> {
        let properties = headers::of_event(&message.properties, FieldTable::default());
        self.publish("", &message.queue, &message.body, properties).await
    }

    async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> anyhow::Result<()> {
        let channel = self.channels.get().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let confirmed =
            timeout(CONFIRM_TIMEOUT, confirm(&channel, exchange, key, body, properties)).await;
        let outcome = match confirmed {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no confirm within {CONFIRM_TIMEOUT:?}")),
        };
        if outcome.is_err() {
            // A confirm that comes late must not be taken for the next one's.
            drop(Object::take(channel));
            // A queue of ours may have been deleted: the next try finds everything in place.
            self.channels.manager().declare_again().await;
        }
        outcome.with_context(|| format!("publishing to exchange {exchange:?} with key {key:?}"))
    }

    /// How many messages wait in each queue.
    pub(super) async fn depths(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let channel = self.channels.get().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut depths = Vec::new();
        for queue in self.channels.manager().topology.queues() {
            let looked =
                channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
            match looked.await {
                Ok(found) => depths.push((queue, found.message_count())),
                Err(error) => {
                    // One that was deleted; the next look finds everything in place.
                    drop(Object::take(channel));
                    self.channels.manager().declare_again().await;
                    return Err(error.into());
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
        // Nothing is under way any more.
        if let Some(connection) = self.channels.manager().connection.lock().await.take() {
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
        let connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|one| one.status().connected())
            && let Err(error) = self.topology.declare(connection).await
        {
            tracing::debug!(%error, "declaring again");
        }
    }
}

impl Manager for Channels {
    type Type = Channel;
    type Error = anyhow::Error;

    async fn create(&self) -> anyhow::Result<Channel> {
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_none_or(|connection| !connection.status().connected()) {
            let fresh = connect(&self.server, "publish").await?;
            // A queue that was deleted would make every mandatory publish come back.
            self.topology.declare(&fresh).await?;
            *connection = Some(fresh);
        }
        let connection = connection.as_ref().context("no connection")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<anyhow::Error> {
        if channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the channel is closed"))
        }
    }
}
