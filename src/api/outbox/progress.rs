//! Sums up the deliveries of a request in the four statuses that callers know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::Request;

/// The progress of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `pending`, `queued`, `sent` or `failed`.
    pub status: &'static str,
    /// Number of retries.
    pub retry_count: i64,
    /// Why it was not sent, or not yet.
    pub error: Option<String>,
    /// Time of the latest change.
    pub updated_at: Timestamp,
}

/// The fields of an audit record that progress depends on.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RecordedAttempt {
    pub(super) event: RecordedEvent,
    #[serde(default)]
    pub(super) delivery_id: String,
    #[serde(default = "first")]
    pub(super) attempt: i64,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) error: Option<RecordedError>,
    #[serde(with = "crate::clients::bson_time")]
    pub(super) at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RecordedEvent {
    pub(super) id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct RecordedError {
    pub(super) message: String,
}

fn first() -> i64 {
    1
}

impl Progress {
    /// Derives the progress of a request from audit records, oldest first; those of other events are
    /// ignored.
    pub(super) fn from_records(request: &Request, records: &[RecordedAttempt]) -> Self {
        let mut progress = Self {
            status: request.state.as_str(),
            retry_count: 0,
            error: None,
            updated_at: request.updated_at,
        };
        // The last record of each delivery: a contact request goes to several people.
        let mut last = BTreeMap::new();
        for record in records.iter().filter(|record| record.event.id == request.id) {
            last.insert(&record.delivery_id, record);
            progress.retry_count = progress.retry_count.max(record.attempt - 1);
            progress.updated_at = progress.updated_at.max(record.at);
        }
        let mut statuses: Vec<&str> = Vec::new();
        for record in last.into_values() {
            statuses.push(match record.status.as_str() {
                "sent" | "simulated" => "sent",
                "retrying" => "queued",
                _ => "failed",
            });
            if let Some(error) = &record.error {
                progress.error = Some(error.message.clone());
            }
        }
        // The worst of them. A record proves that the broker had the event, marked or not.
        let worst = ["failed", "queued", "sent"].into_iter().find(|it| statuses.contains(it));
        progress.status = worst.unwrap_or(progress.status);
        progress
    }
}

#[cfg(test)]
mod tests {
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

    fn record(event: &str, delivery: &str, attempt: i64, status: &str) -> RecordedAttempt {
        let error = RecordedError { message: format!("{status} at {attempt}") };
        RecordedAttempt {
            event: RecordedEvent { id: event.into() },
            delivery_id: delivery.into(),
            attempt,
            status: status.into(),
            error: (status != "sent").then_some(error),
            at: Timestamp::from_second(1_000 + attempt).unwrap(),
        }
    }

    #[test]
    fn a_request_has_the_worst_status_of_its_deliveries() {
        let progress = |state, records: &[RecordedAttempt]| {
            let progress = Progress::from_records(&request(state), records);
            (progress.status, progress.retry_count, progress.error)
        };
        assert_eq!(progress(State::Pending, &[]), ("pending", 0, None));
        let others = record("other", "a", 3, "failed");
        assert_eq!(progress(State::Queued, std::slice::from_ref(&others)), ("queued", 0, None));
        let retrying = record("r", "a", 1, "retrying");
        assert_eq!(
            progress(State::Queued, std::slice::from_ref(&retrying)),
            ("queued", 0, Some("retrying at 1".into()))
        );
        let sent = record("r", "a", 2, "sent");
        assert_eq!(progress(State::Pending, &[retrying, sent.clone(), others]), ("sent", 1, None));
        let failed = record("r", "b", 4, "failed");
        assert_eq!(
            progress(State::Queued, &[sent, failed]),
            ("failed", 3, Some("failed at 4".into()))
        );
    }
}
