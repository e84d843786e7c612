//! RabbitMQ as upstream and operators use it: nothing of usher's own code.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, Queue,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{eventually, in_time};

/// A connection of the test's own.
pub(crate) struct Broker {
    connection: Connection,
}

/// A message taken out of a queue.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) body: Vec<u8>,
    /// The routing key.
    pub(crate) key: String,
    /// The headers that are texts.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) properties: BasicProperties,
}

impl Letter {
    /// A header, empty where it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn reason(&self) -> &str {
        self.header("usher-reason")
    }
}

impl Broker {
    pub(crate) async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        Self { connection: connection.expect("RabbitMQ at TEST_AMQP_URL") }
    }

    async fn channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }

    /// Declares the queue as publishers do: durable, no arguments.
    pub(crate) async fn declare(&self, queue: &str) {
        self.declare_with(queue, FieldTable::default()).await;
    }

    /// The same with arguments.
    pub(crate) async fn declare_with(&self, queue: &str, arguments: FieldTable) {
        let channel = self.channel().await;
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .expect("a publisher's plain declaration works");
        let _ = channel.close(200, "".into()).await;
    }

    /// Declares a queue and binds it to an exchange.
    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.declare(queue).await;
        self.bind_to(queue, exchange, key).await;
    }

    /// Binds a queue that exists.
    pub(crate) async fn bind_to(&self, queue: &str, exchange: &str, key: &str) {
        let channel = self.channel().await;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await
            .expect("bound");
        let _ = channel.close(200, "".into()).await;
    }

    pub(crate) async fn has_exchange(&self, name: &str) -> bool {
        let channel = self.channel().await;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Topic;
        channel.exchange_declare(name.into(), kind, passive, FieldTable::default()).await.is_ok()
    }

    /// Declares an exchange of a type that usher has not.
    pub(crate) async fn declare_direct(&self, name: &str) {
        let channel = self.channel().await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(name.into(), ExchangeKind::Direct, durable, FieldTable::default())
            .await
            .expect("declared");
        let _ = channel.close(200, "".into()).await;
    }

    /// Publishes one message, confirmed.
    pub(crate) async fn publish(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.publish_with(queue, body, BasicProperties::default()).await;
    }

    /// The same with properties.
    pub(crate) async fn publish_with(
        &self,
        queue: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        self.publish_all(queue, [(body, properties)]).await;
    }

    /// Publishes many, then waits for all confirms.
    pub(crate) async fn publish_all<B: AsRef<[u8]>>(
        &self,
        queue: &str,
        messages: impl IntoIterator<Item = (B, BasicProperties)>,
    ) {
        self.declare(queue).await;
        self.publish_to("", queue, messages).await;
    }

    /// Publishes to an exchange.
    pub(crate) async fn publish_to<B: AsRef<[u8]>>(
        &self,
        exchange: &str,
        key: &str,
        messages: impl IntoIterator<Item = (B, BasicProperties)>,
    ) {
        let channel = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::new();
        for (body, properties) in messages {
            let properties = properties.with_delivery_mode(2);
            let publish = channel.basic_publish(
                exchange.into(),
                key.into(),
                options,
                body.as_ref(),
                properties,
            );
            confirms.push(publish.await.expect("published"));
        }
        for confirm in confirms {
            let confirmed = in_time("a confirm", confirm).await.expect("a confirm");
            assert!(matches!(confirmed, Confirmation::Ack(None)), "{confirmed:?}");
        }
        let _ = channel.close(200, "".into()).await;
    }

    /// Messages that wait in the queue, those under way not counted. An absent queue is empty.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        self.look(queue).await.map_or(0, |queue| queue.message_count())
    }

    /// How many consumers the queue has.
    pub(crate) async fn consumers(&self, queue: &str) -> u32 {
        self.look(queue).await.map_or(0, |queue| queue.consumer_count())
    }

    async fn look(&self, queue: &str) -> Option<Queue> {
        let channel = self.channel().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        // An absent queue closes the channel.
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        let declared = declared.ok()?;
        let _ = channel.close(200, "".into()).await;
        Some(declared)
    }

    pub(crate) async fn delete(&self, queue: &str) {
        let channel = self.channel().await;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
        let _ = channel.close(200, "".into()).await;
    }

    /// Takes all messages that wait in the queue right now.
    pub(crate) async fn take_all(&self, queue: &str) -> Vec<Letter> {
        let mut letters = Vec::new();
        let channel = self.channel().await;
        while let Ok(Some(got)) = channel.basic_get(queue.into(), BasicGetOptions::default()).await
        {
            got.acker.ack(BasicAckOptions::default()).await.expect("an ack");
            letters.push(letter(got.delivery));
        }
        // An absent queue closes the channel.
        let _ = channel.close(200, "".into()).await;
        letters
    }

    /// Takes this many messages out of the queue, waiting for them.
    pub(crate) async fn take(&self, queue: &str, count: usize) -> Vec<Letter> {
        let mut letters = Vec::new();
        eventually(&format!("{count} messages in {queue}"), async || {
            letters.extend(self.take_all(queue).await);
            (letters.len() >= count).then_some(())
        })
        .await;
        assert_eq!(letters.len(), count, "more than expected in {queue}");
        letters
    }

    /// Takes the only message out of the queue, waiting for it.
    pub(crate) async fn take_one(&self, queue: &str) -> Letter {
        self.take(queue, 1).await.remove(0)
    }
}

fn letter(delivery: lapin::message::Delivery) -> Letter {
    let mut headers = BTreeMap::new();
    for (name, value) in delivery.properties.headers().iter().flat_map(FieldTable::inner) {
        if let AMQPValue::LongString(text) = value {
            headers.insert(name.to_string(), text.to_string());
        }
    }
    let key = delivery.routing_key.to_string();
    Letter { body: delivery.data, key, headers, properties: delivery.properties }
}
