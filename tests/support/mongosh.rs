//! Reads the `mongosh` queries of the documentation.

use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::Value;

/// A `mongosh` query.
pub(crate) struct Question {
    pub(crate) collection: String,
    method: String,
    arguments: Vec<Bson>,
    sort: Document,
}

impl Question {
    /// Reads `db.<collection>.<method>(…).sort(…)`, in which everything but `ISODate` is JSON.
    pub(crate) fn read(code: &str) -> Self {
        Self::parse(code.trim()).unwrap_or_else(|| panic!("no query: {code}"))
    }

    fn parse(code: &str) -> Option<Self> {
        let (collection, rest) = code.strip_prefix("db.")?.split_once('.')?;
        let (method, rest) = rest.split_once('(')?;
        let (arguments, sort) = match rest.rsplit_once(".sort(") {
            Some((arguments, sort)) => (arguments, sort.strip_suffix(')')?),
            None => (rest, "{}"),
        };
        let arguments = json_of(&format!("[{}]", arguments.trim_end().strip_suffix(')')?));
        Some(Self {
            collection: collection.to_owned(),
            method: method.to_owned(),
            arguments: arguments.as_array()?.clone(),
            sort: json_of(sort).as_document()?.clone(),
        })
    }

    /// Its filter and order.
    pub(crate) fn filter(&self) -> (Document, Document) {
        let first = match &self.arguments[0] {
            Bson::Array(stages) => stages[0].as_document().and_then(|stage| stage.get("$match")),
            filter => Some(filter),
        };
        let first = first.and_then(Bson::as_document).expect("a filter");
        (first.clone(), self.sort.clone())
    }

    /// The command that `mongosh` would send.
    pub(crate) fn command(&self) -> Document {
        let (collection, first) = (&self.collection, &self.arguments[0]);
        match self.method.as_str() {
            "find" => {
                let fields = self.arguments.get(1).and_then(Bson::as_document).cloned();
                let (fields, sort) = (fields.unwrap_or_default(), &self.sort);
                doc! {"find": collection, "filter": first, "projection": fields, "sort": sort}
            }
            "aggregate" => doc! {"aggregate": collection, "pipeline": first, "cursor": {}},
            other => panic!("{other} is not read here"),
        }
    }
}

fn json_of(text: &str) -> Bson {
    let text = text.replace("ISODate(", "{\"$date\": ").replace("Z\")", "Z\"}");
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    bson_of(&value)
}

fn bson_of(value: &Value) -> Bson {
    match value {
        Value::Object(fields) => match fields.get("$date").and_then(Value::as_str) {
            Some(date) => DateTime::parse_rfc3339_str(date).expect("a date").into(),
            None => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), bson_of(value)));
                Bson::Document(fields.collect())
            }
        },
        Value::Array(items) => Bson::Array(items.iter().map(bson_of).collect()),
        plain => mongodb::bson::serialize_to_bson(plain).expect("a plain value"),
    }
}
