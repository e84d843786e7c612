//! What became of a request: what the audit says of its event, in the four words that callers know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mongodb::bson::{Bson, Document};

use super::Request;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `pending`, `queued`, `sent` or `failed`.
    pub status: &'static str,
    /// How often it was tried again.
    pub retry_count: i64,
    /// Why it was not sent, or not yet.
    pub error: Option<String>,
    /// When something happened to it last.
    pub updated_at: Timestamp,
}

impl Progress {
    /// By the records, oldest first, some of which are about its event.
    pub(super) fn of(request: &Request, records: &[Document]) -> Self {
        let mut progress = Self {
            status: request.state.as_str(),
            retry_count: 0,
            error: None,
            updated_at: request.updated_at,
        };
        // The last word on each delivery: a contact request goes to several people.
        let mut last = BTreeMap::new();
        for record in records {
            let event = record.get_document("event").and_then(|event| event.get_str("id"));
            if event.is_ok_and(|id| id == request.id) {
                let delivery = record.get_str("delivery_id").unwrap_or_default();
                last.insert(delivery, record);
                progress.retry_count = progress.retry_count.max(attempt(record) - 1);
                progress.updated_at = progress.updated_at.max(at(record).unwrap_or_default());
            }
        }
        let mut words: Vec<&str> = Vec::new();
        for record in last.into_values() {
            let status = record.get_str("status").unwrap_or_default();
            words.push(match status {
                "sent" | "simulated" => "sent",
                "retrying" => "queued",
                _ => "failed",
            });
            let error = record.get_document("error").and_then(|error| error.get_str("message"));
            if let Ok(error) = error {
                progress.error = Some(error.to_owned());
            }
        }
        // Whatever goes on or went wrong with one of them is to be seen.
        let told = ["failed", "queued", "sent"].into_iter().find(|word| words.contains(word));
        if let Some(told) = told {
            // A record proves that the broker had it, whether that was marked or not.
            progress.status = told;
        }
        progress
    }
}

fn attempt(record: &Document) -> i64 {
    match record.get("attempt") {
        Some(Bson::Int32(attempt)) => i64::from(*attempt),
        Some(Bson::Int64(attempt)) => *attempt,
        _ => 1,
    }
}

fn at(record: &Document) -> Option<Timestamp> {
    let at = record.get_datetime("at").ok()?;
    Timestamp::from_millisecond(at.timestamp_millis()).ok()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, doc};
    use serde_json::Map;

    use super::*;
    use crate::api::outbox::{Kind, State};

    fn request(state: State) -> Request {
        let at = Timestamp::from_second(1_000).unwrap();
        Request {
            id: "r".into(),
            kind: Kind::Contact,
            number: 1,
            body: Map::new(),
            state,
            created_at: at,
            updated_at: at,
            claim_at: at,
            purge_at: None,
            traceparent: None,
        }
    }

    fn record(event: &str, delivery: &str, attempt: i32, status: &str) -> Document {
        let at = DateTime::from_millis(1_000_000 + i64::from(attempt) * 1000);
        let error = doc! {"message": format!("{status} at {attempt}")};
        let mut record = doc! {
            "event": {"id": event}, "delivery_id": delivery, "attempt": attempt, "status": status, "at": at,
        };
        if status != "sent" {
            record.insert("error", error);
        }
        record
    }

    #[test]
    fn the_last_words_on_its_deliveries_tell_what_became_of_a_request() {
        let told = |state, records: &[Document]| {
            let progress = Progress::of(&request(state), records);
            (progress.status, progress.retry_count, progress.error)
        };
        assert_eq!(told(State::Pending, &[]), ("pending", 0, None));
        let others = record("other", "a", 3, "failed");
        assert_eq!(told(State::Queued, std::slice::from_ref(&others)), ("queued", 0, None));
        let retrying = record("r", "a", 1, "retrying");
        assert_eq!(
            told(State::Queued, std::slice::from_ref(&retrying)),
            ("queued", 0, Some("retrying at 1".into()))
        );
        let sent = record("r", "a", 2, "sent");
        assert_eq!(told(State::Pending, &[retrying, sent.clone(), others]), ("sent", 1, None));
        let failed = record("r", "b", 4, "failed");
        assert_eq!(told(State::Queued, &[sent, failed]), ("failed", 3, Some("failed at 4".into())));
    }
}
