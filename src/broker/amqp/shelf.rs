//! The queues in which messages lie until an operator decides: dead letters, poison and parked.

use std::collections::HashSet;

use lapin::{
    Channel, Connection,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{connect, headers, say_goodbye, topology};
use crate::{broker::Message, catalog::DeliveryId, config::Endpoint};

/// One of the three queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// `usher.dead`.
    Dead,
    /// `usher.poison`.
    Poison,
    /// `usher.parked`.
    Parked,
}

impl Shelf {
    /// The queue's name.
    pub fn queue(self) -> &'static str {
        match self {
            Self::Dead => topology::DEAD,
            Self::Poison => topology::POISON,
            Self::Parked => topology::PARKED,
        }
    }
}

/// Messages taken off a shelf and not yet decided about. What is not removed goes back when this
/// is closed or lost.
pub struct Taken {
    connection: Connection,
    channel: Channel,
    queue: &'static str,
}

impl Taken {
    /// Opens the shelf.
    ///
    /// # Errors
    /// The broker is not there, or the queue isn't.
    pub async fn open(server: &Endpoint, shelf: Shelf) -> anyhow::Result<Self> {
        let connection = connect(server, "operator").await?;
        let channel = connection.create_channel().await?;
        Ok(Self { connection, channel, queue: shelf.queue() })
    }

    /// Takes the messages of these deliveries. Everything on the shelf is looked at once; what is
    /// not wanted stays unacknowledged until [`Self::close`].
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn find(
        &self,
        wanted: &HashSet<DeliveryId>,
    ) -> anyhow::Result<Vec<(Message, Handle)>> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue =
            self.channel.queue_declare(self.queue.into(), passive, FieldTable::default()).await?;
        let mut found = Vec::new();
        for _ in 0..queue.message_count() {
            let got = self.channel.basic_get(self.queue.into(), BasicGetOptions::default()).await?;
            let Some(mut got) = got else { break };
            let message = headers::message(&mut got.delivery, self.queue);
            if message.ticket.as_ref().is_some_and(|ticket| wanted.contains(&ticket.delivery_id)) {
                found.push((message, Handle(got)));
            }
        }
        Ok(found)
    }

    /// Puts back what was not removed. Should the broker not join in, it does so by itself once the
    /// connection is gone.
    pub async fn close(self) {
        say_goodbye(&self.connection, "done").await;
    }
}

/// A message on its shelf.
pub struct Handle(BasicGetMessage);

impl Handle {
    /// Removes it for good.
    ///
    /// # Errors
    /// The broker did not answer; the message may still be there.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.0.delivery.acker.ack(BasicAckOptions::default()).await?;
        Ok(())
    }
}
