//! Between AMQP's properties and ours.

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::Topology;
use crate::{
    broker::{DeliveryHeaders, Message, Republish},
    event::Properties,
};

/// Largest header of upstream's that is copied, in bytes.
const COPIED_BYTES: usize = 16 * 1024;

/// A received message. Takes the body out of the delivery.
pub(super) fn message(delivery: &mut Delivery, queue: &str) -> Message {
    let headers = delivery.properties.headers();
    let header = |name: &str| match headers.as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    };
    let delivery_headers =
        Topology::is_own(queue).then(|| DeliveryHeaders::from_headers(header)).flatten();
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    let properties = Properties {
        content_type: text(delivery.properties.content_type()),
        content_encoding: text(delivery.properties.content_encoding()),
        message_id: text(delivery.properties.message_id()),
        correlation_id: text(delivery.properties.correlation_id()),
        kind: text(delivery.properties.kind()),
        timestamp: *delivery.properties.timestamp(),
        traceparent: header("traceparent").map(ToOwned::to_owned),
    };
    Message {
        properties,
        delivery_headers,
        queue: queue.to_owned(),
        redelivered: delivery.redelivered,
        received_at: jiff::Timestamp::now(),
        body: std::mem::take(&mut delivery.data),
    }
}

/// The properties of a hand-off, built anew: a copied user id would be refused, an expiration
/// would lose it, CC and BCC would send it elsewhere, and x-death is the broker's own.
pub(super) fn of_republish(republish: &Republish) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in republish.delivery_headers.to_headers() {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let at = jiff::Timestamp::now().to_string();
    table.insert("usher-at".into(), AMQPValue::LongString(at.into()));
    of_event(&republish.properties, table)
}

/// Persistent, with the properties that describe the event.
pub(super) fn of_event(properties: &Properties, mut headers: FieldTable) -> BasicProperties {
    if let Some(traceparent) =
        properties.traceparent.as_ref().filter(|text| text.len() <= COPIED_BYTES)
    {
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.as_str().into()));
    }
    let mut copy = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    let short =
        |text: &Option<String>| text.as_deref().and_then(|text| ShortString::try_new(text).ok());
    if let Some(content_type) = short(&properties.content_type) {
        copy = copy.with_content_type(content_type);
    }
    if let Some(content_encoding) = short(&properties.content_encoding) {
        copy = copy.with_content_encoding(content_encoding);
    }
    if let Some(message_id) = short(&properties.message_id) {
        copy = copy.with_message_id(message_id);
    }
    if let Some(correlation_id) = short(&properties.correlation_id) {
        copy = copy.with_correlation_id(correlation_id);
    }
    if let Some(kind) = short(&properties.kind) {
        copy = copy.with_type(kind);
    }
    if let Some(timestamp) = properties.timestamp {
        copy = copy.with_timestamp(timestamp);
    }
    copy
}
