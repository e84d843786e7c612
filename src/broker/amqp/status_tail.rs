//! A reader of status events as they come, on a queue of its own that ends with it.

use anyhow::Context;
use futures_util::StreamExt;
use lapin::{
    Connection, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{close_gracefully, connect};
use crate::{broker::queue_names::STATUS, config::Endpoint};

pub struct StatusTail {
    connection: Connection,
    consumer: Consumer,
}

impl StatusTail {
    /// Binds a queue by these routing keys.
    pub async fn open(server: &Endpoint, keys: &[String]) -> anyhow::Result<Self> {
        let (connection, _) = connect(server, "status tail", None).await?;
        let channel = connection.create_channel().await?;
        let queue = format!("usher.status-tail.{}", uuid::Uuid::new_v4().simple());
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        for key in keys {
            let (queue, key) = (queue.as_str().into(), key.as_str().into());
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let bound = channel.queue_bind(queue, STATUS.into(), key, options, arguments).await;
            bound.with_context(|| {
                format!("binding to {STATUS}, which `usher run` makes where STATUS_EVENTS is on")
            })?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel
            .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
            .await?;
        Ok(Self { connection, consumer })
    }

    /// The next event; `None` once the connection is lost.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.consumer.next().await.transpose()?.map(|delivery| delivery.data))
    }

    pub async fn close(self) {
        close_gracefully(&self.connection, "done").await;
    }
}
