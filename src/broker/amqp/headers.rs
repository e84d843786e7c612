//! Converts between AMQP properties and usher's types.

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString},
};
use subtle::ConstantTimeEq;

use super::intake::Arrival;
use crate::{
    broker::{DeliveryHeaders, Message, Republish, StatusMessage, queue_names},
    event::{Fault, Header, Headers, Properties, published_second},
    routing::Identity,
};

/// How much of upstream's headers is copied, in bytes: all headers have to fit into one frame.
const COPIED_BYTES: usize = 32 * 1024;

/// Headers of the broker's own, and those that would send a copy elsewhere.
const NOT_COPIED: [&str; 8] = [
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    STREAM_OFFSET,
    "CC",
    "BCC",
    "traceparent",
    "x-match",
];
const STREAM_OFFSET: &str = "x-stream-offset";
const NOT_COPIED_PREFIXES: [&str; 3] = ["usher-", "x-first-death-", "x-last-death-"];

/// A received message. Takes the body out of the delivery, and what is wrong with it out of the
/// arrival.
pub(super) fn message(
    delivery: &mut Delivery,
    arrival: &mut Arrival,
    queue: &str,
    identity: &Identity,
) -> Message {
    let headers = delivery.properties.headers();
    let header = |name: &str| match headers.as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    };
    let delivery_headers =
        queue_names::is_own(queue).then(|| DeliveryHeaders::from_headers(header)).flatten();
    let is_authentic = delivery_headers.is_some()
        && header(CODE).is_some_and(|stated| {
            let code = message_code(identity, &delivery.properties, &delivery.data);
            bool::from(code.as_bytes().ct_eq(stated.as_bytes()))
        });
    let unroutable = || {
        (queue == queue_names::UNROUTABLE).then(|| Fault::Unroutable {
            exchange: delivery.exchange.to_string(),
            key: delivery.routing_key.to_string(),
        })
    };
    let properties = Properties {
        traceparent: header("traceparent").map(ToOwned::to_owned),
        fault: arrival
            .fault
            .take()
            .or_else(|| header(TOO_LARGE).and_then(read_too_large))
            .or_else(unroutable),
        deliveries_before: headers.as_ref().map_or(0, deliveries_before),
        ..upstream_properties(&delivery.properties)
    };
    Message {
        properties,
        delivery_headers,
        is_authentic,
        queue: queue.to_owned(),
        redelivered: delivery.redelivered,
        received_at: crate::clock::now(),
        body: std::mem::take(&mut delivery.data),
    }
}

/// What the publisher said, as far as it is copied.
pub(super) fn upstream_properties(properties: &BasicProperties) -> Properties {
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        kind: text(properties.kind()),
        app_id: text(properties.app_id()),
        timestamp: properties.timestamp().and_then(published_second),
        headers: properties.headers().as_ref().map(copied).unwrap_or_default(),
        ..Properties::default()
    }
}

/// The MAC of a message in usher's own queues.
const CODE: &str = "usher-mac";

/// Covers the body, usher's headers and the properties that name the event. Other headers are not covered:
/// brokers add some and change the types of others.
fn message_code(identity: &Identity, properties: &BasicProperties, body: &[u8]) -> String {
    let named = [
        ("content-type", properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("message-id", properties.message_id()),
        ("correlation-id", properties.correlation_id()),
        ("type", properties.kind()),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?.as_str().as_bytes())));
    let headers = properties.headers().as_ref().map(FieldTable::inner).into_iter().flatten();
    let headers = headers.filter_map(|(name, value)| {
        let name = name.as_str();
        let is_covered = name.starts_with("usher-") && name != CODE;
        match value {
            AMQPValue::LongString(text) if is_covered => Some((name, text.as_bytes())),
            AMQPValue::ShortString(text) if is_covered => Some((name, text.as_str().as_bytes())),
            _ => None,
        }
    });
    let parts = named.chain(headers).flat_map(|(name, value)| [name.as_bytes(), value]);
    identity.message_code([body].into_iter().chain(parts))
}

/// What stands for a body that was too large to be taken where it came from.
const TOO_LARGE: &str = "usher-too-large";

fn read_too_large(text: &str) -> Option<Fault> {
    let (bytes, hash) = text.split_once(' ')?;
    Some(Fault::TooLarge { bytes: bytes.parse().ok()?, hash: hash.to_owned() })
}

/// Whether the message came from a stream, if no publisher says so.
pub(super) fn has_stream_offset(properties: &BasicProperties) -> bool {
    let headers = properties.headers().as_ref();
    headers.is_some_and(|headers| headers.inner().contains_key(STREAM_OFFSET))
}

/// How often a quorum queue says that it delivered the message before.
fn deliveries_before(headers: &FieldTable) -> u64 {
    match headers.inner().get("x-delivery-count") {
        Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).unwrap_or_default(),
        Some(AMQPValue::LongInt(count)) => u64::try_from(*count).unwrap_or_default(),
        _ => 0,
    }
}

/// Upstream's headers, as far as they are copied.
fn copied(headers: &FieldTable) -> Headers {
    let mut left = COPIED_BYTES;
    let mut copied = Headers::new();
    for (name, value) in headers {
        let name = name.as_str();
        let is_ours = NOT_COPIED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let size = name.len() + size(value);
        if is_ours || NOT_COPIED.contains(&name) || size > left {
            continue;
        }
        left -= size;
        copied.push((name.to_owned(), header(value)));
    }
    copied
}

/// About as many bytes as it has in a frame.
fn size(value: &AMQPValue) -> usize {
    9 + match value {
        AMQPValue::LongString(text) => text.as_bytes().len(),
        AMQPValue::ShortString(text) => text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 2 * bytes.as_slice().len(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(size).sum(),
        AMQPValue::FieldTable(table) => {
            table.inner().iter().map(|(name, value)| name.as_str().len() + size(value)).sum()
        }
        _ => 0,
    }
}

fn header(value: &AMQPValue) -> Header {
    match value {
        AMQPValue::Boolean(flag) => Header::Flag(*flag),
        AMQPValue::ShortShortInt(number) => Header::Whole((*number).into()),
        AMQPValue::ShortShortUInt(number) => Header::Whole((*number).into()),
        AMQPValue::ShortInt(number) => Header::Whole((*number).into()),
        AMQPValue::ShortUInt(number) => Header::Whole((*number).into()),
        AMQPValue::LongInt(number) => Header::Whole((*number).into()),
        AMQPValue::LongUInt(number) => Header::Whole((*number).into()),
        AMQPValue::LongLongInt(number) => Header::Whole(*number),
        AMQPValue::Float(number) => Header::Float(number.to_string()),
        AMQPValue::Double(number) => Header::Float(number.to_string()),
        AMQPValue::DecimalValue(decimal) => Header::Decimal(decimal.scale, decimal.value),
        AMQPValue::ShortString(text) => Header::Text(text.to_string()),
        AMQPValue::LongString(text) => match str::from_utf8(text.as_bytes()) {
            Ok(text) => Header::Text(text.to_owned()),
            Err(_) => Header::Bytes(hex::encode(text.as_bytes())),
        },
        AMQPValue::ByteArray(bytes) => Header::Bytes(hex::encode(bytes.as_slice())),
        AMQPValue::FieldArray(items) => Header::List(items.as_slice().iter().map(header).collect()),
        AMQPValue::FieldTable(table) => {
            let entries = table.inner().iter();
            Header::Table(entries.map(|(name, value)| (name.to_string(), header(value))).collect())
        }
        // The same 64 bits.
        AMQPValue::Timestamp(seconds) => Header::Time(*seconds as i64),
        AMQPValue::Void => Header::Void,
    }
}

fn value(header: &Header) -> AMQPValue {
    match header {
        Header::Text(text) => AMQPValue::LongString(text.as_str().into()),
        Header::Bytes(digits) => {
            AMQPValue::LongString(LongString::from(hex::decode(digits).unwrap_or_default()))
        }
        Header::Whole(number) => AMQPValue::LongLongInt(*number),
        Header::Float(text) => text.parse().map_or(AMQPValue::Void, AMQPValue::Double),
        Header::Decimal(scale, value) => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value })
        }
        Header::Flag(flag) => AMQPValue::Boolean(*flag),
        Header::Time(seconds) => AMQPValue::Timestamp(*seconds as u64),
        Header::List(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(value).collect::<Vec<_>>()))
        }
        Header::Table(headers) => AMQPValue::FieldTable(table(headers)),
        Header::Void => AMQPValue::Void,
    }
}

fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, header) in headers {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, value(header));
        }
    }
    table
}

/// The properties of a republish. They are built anew: the broker would refuse a copied user id, an
/// expiration would drop the message, a reply queue may be one that only the publisher may name, CC and BCC would
/// route it elsewhere, and x-death belongs to the broker.
pub(super) fn republish_properties(republish: &Republish, identity: &Identity) -> BasicProperties {
    let mut table = table(&republish.properties.headers);
    for (name, value) in republish.delivery_headers.to_headers() {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let at = crate::clock::now().to_string();
    table.insert("usher-at".into(), AMQPValue::LongString(at.into()));
    let properties = with_headers(&republish.properties, table);
    let code = message_code(identity, &properties, &republish.body);
    let mut table = properties.headers().clone().unwrap_or_default();
    table.insert(CODE.into(), AMQPValue::LongString(code.into()));
    properties.with_headers(table)
}

/// The properties of an event as upstream sends it.
pub(super) fn event_properties(properties: &Properties) -> BasicProperties {
    with_headers(properties, table(&properties.headers))
}

/// Persistent, a CloudEvent in structured mode.
pub(super) fn status_properties(message: &StatusMessage) -> BasicProperties {
    let second = u64::try_from(message.time.as_second()).unwrap_or_default();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/cloudevents+json".into())
        .with_type(message.kind.as_str().into())
        .with_timestamp(second);
    // The id of a duplicate has the event's id in it, which may be long.
    match ShortString::try_new(message.id.as_str()) {
        Ok(id) => properties.with_message_id(id),
        Err(_) => properties,
    }
}

/// Persistent, with the event's own properties.
fn with_headers(properties: &Properties, mut headers: FieldTable) -> BasicProperties {
    if let Some(traceparent) =
        properties.traceparent.as_ref().filter(|text| text.len() <= COPIED_BYTES)
    {
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.as_str().into()));
    }
    if let Some(Fault::TooLarge { bytes, hash }) = &properties.fault {
        let text = format!("{bytes} {hash}");
        headers.insert(TOO_LARGE.into(), AMQPValue::LongString(text.into()));
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
    if let Some(app_id) = short(&properties.app_id) {
        copy = copy.with_app_id(app_id);
    }
    if let Some(timestamp) = properties.timestamp {
        copy = copy.with_timestamp(timestamp);
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_type_stay_what_they_are_and_ours_are_not_copied() {
        let mut upstream = FieldTable::default();
        let mut nested = FieldTable::default();
        nested.insert("n".into(), AMQPValue::Void);
        for (name, value) in [
            ("flag", AMQPValue::Boolean(true)),
            ("whole", AMQPValue::LongLongInt(i64::MIN)),
            ("double", AMQPValue::Double(2.5)),
            ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 250 })),
            ("text", AMQPValue::LongString("ñ".into())),
            ("bytes", AMQPValue::LongString(LongString::from(vec![0xff, 0xfe]))),
            ("time", AMQPValue::Timestamp(u64::MAX)),
            ("list", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Boolean(false)]))),
            ("table", AMQPValue::FieldTable(nested)),
            ("void", AMQPValue::Void),
        ] {
            upstream.insert(name.into(), value);
        }
        assert_eq!(table(&copied(&upstream)), upstream);
        let mut more = upstream.clone();
        for name in ["usher-masked", "CC", "BCC", "x-death", "x-first-death-queue"] {
            more.insert(name.into(), AMQPValue::LongString("x".into()));
        }
        more.insert("huge".into(), AMQPValue::LongString("x".repeat(COPIED_BYTES).into()));
        assert_eq!(table(&copied(&more)), upstream);
        let narrow = [
            (AMQPValue::ShortShortUInt(255), 255),
            (AMQPValue::ShortInt(-1), -1),
            (AMQPValue::LongUInt(u32::MAX), i64::from(u32::MAX)),
        ];
        for (value, number) in narrow {
            assert_eq!(header(&value), Header::Whole(number));
        }
        assert_eq!(header(&AMQPValue::Float(f32::NAN)), Header::Float("NaN".into()));
    }
}
