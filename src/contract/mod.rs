//! The contract for publishers: an AsyncAPI document
//! (<https://www.asyncapi.com/docs/reference/specification/v3.1.0>), generated from routes and
//! samples.

mod blocks;
mod schema;

use serde_json::{Map, Value, json};

use crate::{
    broker::queue_names::{EVENTS, STATUS},
    duration,
    event::MAX_EVENT_BYTES,
    routing::{EventKind, Recipients, Route, RoutingTable},
    status_events::schema as status_schema,
    template::{
        sample,
        source::{self, Files},
    },
};

/// Version of AsyncAPI's AMQP binding.
const BINDING: &str = "0.3.0";

/// The whole document in YAML.
pub(crate) fn asyncapi(routing: &RoutingTable, files: &Files) -> anyhow::Result<String> {
    let kinds = routing.event_kinds();
    let mut messages = Map::new();
    let mut schemas = blocks::shared();
    for kind in &kinds {
        let name = component(kind.name);
        messages.insert(name.clone(), plain(kind, files));
        messages.insert(cloudevent_name(&name), cloudevent(kind));
        schemas.insert(name, schema::event_schema(kind));
    }
    let mut channels = Map::new();
    for queue in routing.queues() {
        let on_queue = kinds.iter().filter(|kind| kind.queue() == queue.name);
        channels.insert(component(&queue.name), queue_channel(&queue.name, on_queue));
    }
    channels.insert(EVENTS.to_owned(), exchange_channel(&kinds));
    let mut operations: Map<_, _> = channels
        .keys()
        .map(|name| {
            let bindings = json!({"amqp": {"ack": true, "bindingVersion": BINDING}});
            let channel = json!({"$ref": format!("#/channels/{name}")});
            let receive = json!({"action": "receive", "channel": channel, "bindings": bindings});
            (format!("receive-{name}"), receive)
        })
        .collect();
    for status in status_channels() {
        let StatusChannel { name, address, ref schema, .. } = status;
        let message = format!("{STATUS}.{name}");
        let link = json!({"$ref": format!("#/components/messages/{message}")});
        let channel = format!("{STATUS}.{name}");
        operations.insert(
            format!("send-{channel}"),
            json!({
                "action": "send",
                "channel": {"$ref": format!("#/channels/{channel}")},
                "bindings": {"amqp": {"deliveryMode": 2, "bindingVersion": BINDING}},
            }),
        );
        channels.insert(channel, status_channel(address, &status, &json!({&message: link})));
        messages.insert(
            message.clone(),
            json!({
                "name": message,
                "title": status.title,
                "contentType": "application/cloudevents+json",
                "payload": schema,
            }),
        );
    }
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
    // A feature of serde_json decides whether names are sorted, and any dependency can enable it.
    document.sort_all_objects();
    Ok(serde_saphyr::to_string(&document)?)
}

/// A kind of status event.
struct StatusChannel {
    name: &'static str,
    title: &'static str,
    /// The routing key.
    address: &'static str,
    schema: Value,
}

fn status_channels() -> [StatusChannel; 3] {
    [
        StatusChannel {
            name: "delivery",
            title: "What became of a delivery",
            address: "delivery.{status}.{route}",
            schema: status_schema::delivery(),
        },
        StatusChannel {
            name: "event",
            title: "What became of a message that is no delivery",
            address: "event.{status}",
            schema: status_schema::event(),
        },
        StatusChannel {
            name: "checkpoint",
            title: "A signed checkpoint of the audit",
            address: "checkpoint.{status}",
            schema: status_schema::checkpoint(),
        },
    ]
}

fn status_channel(address: &str, of: &StatusChannel, messages: &Value) -> Value {
    let exchange = json!({"name": STATUS, "type": "topic", "durable": true, "autoDelete": false});
    let amqp = json!({"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING});
    let statuses = &of.schema["properties"]["data"]["properties"]["status"]["enum"];
    let mut parameters = json!({"status": {"enum": statuses}});
    if address.contains("{route}") {
        parameters["route"] = json!({"description": "Name of the route."});
    }
    json!({
        "address": address,
        "description": "Only where STATUS_EVENTS is on. More statuses may follow: ignore what you don't know.",
        "parameters": parameters,
        "messages": messages,
        "bindings": {"amqp": amqp},
    })
}

fn description() -> String {
    format!(
        "Events that usher receives and turns into notifications.\n\n\
         Publish to a queue by its name, or to the exchange {EVENTS} with the event's type as routing \
         key. Publish persistent (delivery mode 2), mandatory and with publisher confirms; without a \
         confirm, publish again with the same id. Bodies are JSON in UTF-8 of at most {MAX_EVENT_BYTES} \
         bytes. Content encodings such as gzip are rejected.\n\n\
         An event is plain JSON, or CloudEvents 1.0 in structured or binary mode. Names in Pascal case \
         (FullName, IPAddress) are read as snake case (full_name, ip_address). Unlisted fields are \
         ignored. A message that is not a valid event goes to usher.poison. An event goes to usher.dead \
         if a variable or the recipient is missing or invalid."
    )
}

/// The message for an event as plain JSON.
fn plain(kind: &EventKind<'_>, files: &Files) -> Value {
    let type_schema = json!({"enum": kind.names, "description": "The event's type."});
    let mut payload = json!({"allOf": [blocks::link(&component(kind.name))]});
    if kind.mapping.is_some() {
        // Messages of the Redis stream have `template` instead.
        payload["properties"] = json!({"event_type": type_schema, "template": type_schema});
        payload["anyOf"] = json!([{"required": ["template"]}, {"required": ["event_type"]}]);
    } else {
        payload["properties"] = json!({"event_type": type_schema});
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

/// The message for an event as a CloudEvent.
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
        "description": "W3C trace context. Its trace id is recorded.",
    });
    json!({"type": "object", "properties": {"traceparent": traceparent}})
}

/// The shortest and the longest sample.
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
        // With the field names of the schemas.
        Some(json!({"name": name, "payload": sample(text).ok()?.fields}))
    };
    shown.filter_map(example).collect()
}

/// The notifications that an event causes, and their rules.
fn summary(kind: &EventKind<'_>) -> String {
    let asks = kind.routes.iter().map(|route| describe_route(route));
    asks.collect::<Vec<_>>().join(" ")
}

fn describe_route(route: &Route) -> String {
    let to = match &route.recipients {
        Recipients::Field(path) | Recipients::Optional(path) => path.as_str(),
        // The addresses themselves are not published.
        Recipients::Fixed(_) => "addresses in usher's settings",
    };
    let (template, channel) = (&route.template, route.channel.as_str());
    let mut text =
        format!("{template} by {channel} to {to}, priority {}.", route.priority.as_str());
    if let Some(pattern) = &route.business_key {
        text += &format!(" Events with the same {pattern} give one mail.");
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
        "description": "The routing key selects the event's queue.",
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

/// Replaces characters that AsyncAPI does not allow in component names.
fn component(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}
