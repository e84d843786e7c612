//! The queues in which messages lie until an operator decides: dead letters, poison and parked.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use lapin::{
    Channel, Connection,
    message::{BasicGetMessage, Delivery},
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{connect, headers, intake::Intake, say_goodbye};
use crate::{
    broker::{DeliveryHeaders, Message, queue_names},
    config::Endpoint,
    event::{self, Fault, InvalidEvent},
    routing::Identity,
};

/// One of the three queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterQueue {
    /// `usher.dead`.
    Dead,
    /// `usher.poison`.
    Poison,
    /// `usher.parked`.
    Parked,
}

impl DeadLetterQueue {
    /// The queue's name.
    pub fn queue(self) -> &'static str {
        match self {
            Self::Dead => queue_names::DEAD,
            Self::Poison => queue_names::POISON,
            Self::Parked => queue_names::PARKED,
        }
    }
}

/// Messages taken off a shelf and not yet decided about. What is not removed goes back when this
/// is closed or lost.
pub struct Taken {
    connection: Connection,
    intake: Arc<Intake>,
    channel: Channel,
    queue: &'static str,
    count: u32,
    looked_at: AtomicU32,
}

impl Taken {
    /// Opens the shelf.
    ///
    /// # Errors
    /// The broker is not there, or the queue isn't.
    pub async fn open(server: &Endpoint, queue: DeadLetterQueue) -> anyhow::Result<Self> {
        let (connection, intake) = connect(server, "operator", None).await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = queue.queue();
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        let count = declared.message_count();
        Ok(Self { connection, intake, channel, queue, count, looked_at: AtomicU32::new(0) })
    }

    /// How many messages there were.
    pub fn count(&self) -> u64 {
        self.count.into()
    }

    /// Takes one message after the other, each once; all have a ticket. What is not removed stays
    /// unacknowledged until [`Self::close`].
    ///
    /// # Errors
    /// The broker did not answer.
    pub async fn next(&self, identity: &Identity) -> anyhow::Result<Option<(Message, Handle)>> {
        // What was put there meanwhile would never end.
        if self.looked_at.fetch_add(1, Ordering::Relaxed) >= self.count {
            return Ok(None);
        }
        let got = self.channel.basic_get(self.queue.into(), BasicGetOptions::default()).await?;
        let Some(mut got) = got else { return Ok(None) };
        let mut arrival = self.intake.take(self.channel.id(), got.delivery.delivery_tag);
        let mut message = headers::message(&mut got.delivery, &mut arrival, self.queue);
        if message.delivery_headers.is_none() {
            message.delivery_headers = Some(stranger(identity, &message, &got.delivery));
        }
        Ok(Some((message, Handle(got))))
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

/// What is known of a message that came here past usher: no binding of the exchange took it.
fn stranger(identity: &Identity, message: &Message, delivery: &Delivery) -> DeliveryHeaders {
    let (exchange, key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
    let mut reason = format!("exchange {exchange:?} has no queue for the routing key {key:?}");
    let is_kept = !matches!(message.properties.fault, Some(Fault::TooLarge { .. }));
    if let Err(invalid @ (InvalidEvent::NotKept { .. } | InvalidEvent::Unreadable(_))) =
        event::parse(&message.body, &message.properties, &message.queue)
    {
        reason = format!("{reason}; {invalid}");
    }
    DeliveryHeaders {
        delivery_id: identity.rejected(message.fingerprint(), &message.queue),
        event_id: String::new(),
        route: String::new(),
        channel: String::new(),
        recipient: String::new(),
        attempt: 0,
        origin: String::new(),
        reason,
        masked: !is_kept,
        arrived_at: None,
    }
}
