//! The dead-letter queues, whose messages wait for an operator.

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

use super::{close_gracefully, connect, headers, intake::Intake};
use crate::{
    broker::{DeliveryHeaders, Message, queue_names},
    config::Endpoint,
    event::{self, Fault, InvalidEvent},
    routing::Identity,
};

/// A queue whose messages wait for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterQueue {
    Dead,
    Poison,
    Parked,
}

impl DeadLetterQueue {
    pub fn queue(self) -> &'static str {
        match self {
            Self::Dead => queue_names::DEAD,
            Self::Poison => queue_names::POISON,
            Self::Parked => queue_names::PARKED,
        }
    }
}

/// A consumer of one dead-letter queue. Messages that are not removed go back to the queue when it
/// is closed or lost.
pub struct DeadLetterReader {
    connection: Connection,
    intake: Arc<Intake>,
    channel: Channel,
    queue: &'static str,
    count: u32,
    taken: AtomicU32,
}

impl DeadLetterReader {
    pub async fn open(server: &Endpoint, queue: DeadLetterQueue) -> anyhow::Result<Self> {
        let (connection, intake) = connect(server, "operator", None).await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = queue.queue();
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        let count = declared.message_count();
        Ok(Self { connection, intake, channel, queue, count, taken: AtomicU32::new(0) })
    }

    /// The number of messages in the queue when it was opened.
    pub fn count(&self) -> u64 {
        self.count.into()
    }

    /// Takes the next message, each once. It always has delivery headers. A message that is not
    /// removed stays unacknowledged until [`Self::close`].
    pub async fn next(&self, identity: &Identity) -> anyhow::Result<Option<(Message, AckHandle)>> {
        // Messages that arrive meanwhile could make this endless.
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.count {
            return Ok(None);
        }
        let got = self.channel.basic_get(self.queue.into(), BasicGetOptions::default()).await?;
        let Some(mut got) = got else { return Ok(None) };
        let mut arrival = self.intake.take(self.channel.id(), got.delivery.delivery_tag);
        let mut message = headers::message(&mut got.delivery, &mut arrival, self.queue, identity);
        if message.delivery_headers.is_none() {
            message.delivery_headers = Some(unrouted_headers(identity, &message, &got.delivery));
        }
        Ok(Some((message, AckHandle(got))))
    }

    /// Puts back what was not removed. If the broker does not answer, it does so itself when the
    /// connection ends.
    pub async fn close(self) {
        close_gracefully(&self.connection, "done").await;
    }
}

/// A message that was taken.
pub struct AckHandle(BasicGetMessage);

impl AckHandle {
    /// Removes the message for good.
    ///
    /// # Errors
    /// The broker did not answer. The message may still be there.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.0.delivery.acker.ack(BasicAckOptions::default()).await?;
        Ok(())
    }
}

/// Headers for a message that no binding of the exchange matched, so that usher never saw it.
fn unrouted_headers(
    identity: &Identity,
    message: &Message,
    delivery: &Delivery,
) -> DeliveryHeaders {
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
        relay: None,
        template: None,
        corrected: false,
    }
}
