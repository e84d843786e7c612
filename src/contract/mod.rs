//! The contract for publishers: an AsyncAPI document that is made from the routes and the samples, so
//! that it says what the routes say (<https://www.asyncapi.com/docs/reference/specification/v3.1.0>).

mod blocks;
mod schema;

use serde_json::{Map, Value, json};

use crate::{
    broker::queue_names::EVENTS,
    duration,
    event::MAX_EVENT_BYTES,
    routing::{EventKind, Recipients, Route, RoutingTable},
    template::{
        sample,
        source::{self, Files},
    },
};

/// The version of AsyncAPI's AMQP binding.
const BINDING: &str = "0.3.0";

/// The whole document, in YAML.
///
/// # Errors
/// It can't be written as YAML.
pub(crate) fn asyncapi(routing: &RoutingTable, files: &Files) -> anyhow::Result<String> {
    let kinds = routing.kinds();
    let mut messages = Map::new();
    let mut schemas = blocks::shared();
    for kind in &kinds {
        let name = component(kind.name);
        messages.insert(name.clone(), plain(kind, files));
        messages.insert(cloudevent_name(&name), cloudevent(kind));
        schemas.insert(name, schema::of_fields(kind));
    }
    let mut channels = Map::new();
    for queue in routing.queues() {
        let on_queue = kinds.iter().filter(|kind| kind.queue() == queue.name);
        channels.insert(component(&queue.name), queue_channel(&queue.name, on_queue));
    }
    channels.insert(EVENTS.to_owned(), exchange_channel(&kinds));
    let operations: Map<_, _> = channels
        .keys()
        .map(|name| {
            let bindings = json!({"amqp": {"ack": true, "bindingVersion": BINDING}});
            let channel = json!({"$ref": format!("#/channels/{name}")});
            let receive = json!({"action": "receive", "channel": channel, "bindings": bindings});
            (format!("receive-{name}"), receive)
        })
        .collect();
    let mut document = json!({
        "asyncapi": "3.1.0",
        "info": {
            "title": "usher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description(),
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "servers": {
            "rabbitmq": {
                "host": "localhost:5672",
                "protocol": "amqp",
                "description": "The RabbitMQ of RABBITMQ_URL.",
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    });
    // Whether names come sorted depends on a feature of serde_json that any dependency can switch on.
    document.sort_all_objects();
    Ok(serde_saphyr::to_string(&document)?)
}

fn description() -> String {
    format!(
        "Events that usher turns into notifications, seen from usher: it receives them.\n\n\
         Publish to a queue by its name, or to the exchange {EVENTS} with the event's type as routing \
         key; persistent (delivery mode 2), mandatory and with publisher confirms, and again, with the \
         same id, where no confirm came. Bodies are JSON in UTF-8 of at most {MAX_EVENT_BYTES} bytes; a \
         content encoding such as gzip is refused.\n\n\
         Each event comes as plain JSON or as CloudEvents 1.0 in structured or binary mode. Names in Pascal case \
         (FullName, IPAddress) are read as their snake case (full_name, ip_address); fields that are not \
         listed are ignored. What does not match goes to usher.poison where it is no event, and to \
         usher.dead where a variable or the recipient is missing or wrong."
    )
}

/// An event as plain JSON.
fn plain(kind: &EventKind<'_>, files: &Files) -> Value {
    let says_type = json!({"enum": kind.names, "description": "The event's type."});
    let mut payload = json!({"allOf": [blocks::link(&component(kind.name))]});
    if kind.mapping.is_some() {
        // The messages of the Redis stream say their template instead.
        payload["properties"] = json!({"event_type": says_type, "template": says_type});
        payload["anyOf"] = json!([{"required": ["template"]}, {"required": ["event_type"]}]);
    } else {
        payload["properties"] = json!({"event_type": says_type});
        payload["required"] = json!(["event_type"]);
    }
    json!({
        "name": kind.name,
        "title": kind.name,
        "summary": summary(kind),
        "contentType": "application/json",
        "headers": headers(),
        "payload": payload,
        "examples": examples(kind, files),
    })
}

/// The same as a CloudEvent.
fn cloudevent(kind: &EventKind<'_>) -> Value {
    let payload = json!({
        "allOf": [blocks::link("CloudEvent")],
        "properties": {
            "type": {"enum": kind.names, "description": "The event's type."},
            "data": blocks::link(&component(kind.name)),
        },
    });
    json!({
        "name": kind.name,
        "title": format!("{} as a CloudEvent", kind.name),
        "summary": summary(kind),
        "contentType": "application/cloudevents+json",
        "headers": headers(),
        "payload": payload,
    })
}

fn headers() -> Value {
    let traceparent = json!({
        "type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
        "description": "The W3C trace context; its trace id is recorded.",
    });
    json!({"type": "object", "properties": {"traceparent": traceparent}})
}

/// The shortest sample and the longest.
fn examples(kind: &EventKind<'_>, files: &Files) -> Vec<Value> {
    let mut samples: Vec<(&str, &str)> = Vec::new();
    for route in kind.routes {
        let of_kind = source::samples(files, &route.template).filter(|(_, text)| {
            sample(text).is_ok_and(|event| kind.names.contains(&event.kind.as_str()))
        });
        samples.extend(of_kind);
    }
    samples.sort_by_key(|(_, text)| text.len());
    samples.dedup();
    let longest = samples.last().filter(|_| samples.len() > 1);
    let shown = samples.first().into_iter().chain(longest);
    let example = |(path, text): &(&str, &str)| {
        let name = path.rsplit('/').next()?.strip_suffix(".json")?;
        // With the names that the schemas have.
        Some(json!({"name": name, "payload": sample(text).ok()?.fields}))
    };
    shown.filter_map(example).collect()
}

/// Which notifications an event asks for, and under which rules.
fn summary(kind: &EventKind<'_>) -> String {
    let asks = kind.routes.iter().map(|route| of_route(route));
    asks.collect::<Vec<_>>().join(" ")
}

fn of_route(route: &Route) -> String {
    let to = match &route.recipients {
        Recipients::Field(path) | Recipients::Optional(path) => path.as_str(),
        // The addresses themselves are nobody's business.
        Recipients::Fixed(_) => "addresses of usher's settings",
    };
    let (template, channel) = (&route.template, route.channel.as_str());
    let mut text =
        format!("{template} by {channel} to {to}, priority {}.", route.priority.as_str());
    if let Some(pattern) = &route.business_key {
        text += &format!(" Events with the same {pattern} are one.");
    }
    if let Some(age) = route.max_age {
        text += &format!(" Not sent when older than {}.", duration::format(age));
    }
    text
}

fn queue_channel<'a>(queue: &str, kinds: impl Iterator<Item = &'a EventKind<'a>>) -> Value {
    let settings = json!({"name": queue, "durable": true, "exclusive": false, "autoDelete": false});
    let amqp = json!({"is": "queue", "queue": settings, "bindingVersion": BINDING});
    json!({"address": queue, "messages": links(kinds), "bindings": {"amqp": amqp}})
}

fn exchange_channel(kinds: &[EventKind<'_>]) -> Value {
    let exchange = json!({"name": EVENTS, "type": "topic", "durable": true, "autoDelete": false});
    let amqp = json!({"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING});
    let types: Vec<&str> = kinds.iter().flat_map(|kind| kind.names.iter().copied()).collect();
    json!({
        "address": "{event_type}",
        "description": "The routing key leads to the event's queue.",
        "parameters": {"event_type": {"enum": types, "description": "The event's type."}},
        "messages": links(kinds.iter()),
        "bindings": {"amqp": amqp},
    })
}

fn links<'a>(kinds: impl Iterator<Item = &'a EventKind<'a>>) -> Map<String, Value> {
    let names = kinds.flat_map(|kind| {
        let name = component(kind.name);
        [cloudevent_name(&name), name]
    });
    names
        .map(|name| {
            let link = json!({"$ref": format!("#/components/messages/{name}")});
            (name, link)
        })
        .collect()
}

fn cloudevent_name(name: &str) -> String {
    format!("{name}.cloudevent")
}

/// A name as AsyncAPI lets components have it.
fn component(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}
