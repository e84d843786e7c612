//! What one instance says of itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::health::{Health, State, WorkCounts};

/// Reports on this process.
#[derive(Clone)]
pub struct InstanceReporter {
    instance: String,
    host: String,
    started: Timestamp,
    health: Health,
}

/// An instance at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Its id, as records have it in `worker`.
    pub instance: String,
    pub version: String,
    /// Name of its host, container or pod.
    pub host: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// When it said this.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Number of messages that it has taken and not settled.
    pub in_hand: u64,
    /// When the oldest event among them arrived.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_in_hand: Option<Timestamp>,
    /// Number of deliveries that wait for a place on each channel.
    #[serde(default)]
    pub waiting: BTreeMap<String, u64>,
    /// State of each dependency.
    pub checks: BTreeMap<String, Check>,
    /// State of each long-running task of usher.
    pub tasks: BTreeMap<String, TaskCheck>,
    /// Events that are expected and have not come for too long.
    #[serde(default)]
    pub missing_events: Vec<MissingEvent>,
}

/// An event that is expected and has not come for too long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingEvent {
    /// Its type.
    pub event_type: String,
    /// When it came last, or when usher began to wait for it.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Within which time it was to come, in seconds.
    pub within_seconds: u64,
}

/// State of a dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// `up`, `down`, `unused` or `unknown`.
    pub status: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// State of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskCheck {
    /// `up` or `down`; after a failure `down` until it has run for ten seconds again.
    pub status: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl InstanceReporter {
    pub fn new(instance: String, health: Health) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { instance, host, started: crate::clock::now(), health }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn report(&self) -> InstanceStatus {
        let checks = self.health.all().map(|dependency| {
            let (state, since) = dependency.state_since();
            let (status, error) = match state {
                State::Up => ("up", None),
                State::Unused => ("unused", None),
                State::Unknown => ("unknown", None),
                State::Down(reason) => ("down", Some(reason)),
            };
            (dependency.name().to_owned(), Check { status: status.to_owned(), since, error })
        });
        let tasks = self.health.tasks.all().into_iter().map(|(name, task)| {
            let status = if task.failure.is_none() { "up" } else { "down" }.to_owned();
            (name.to_owned(), TaskCheck { status, error: task.failure.map(ToOwned::to_owned) })
        });
        let missing = self.health.expected.missing().into_iter().map(|one| MissingEvent {
            event_type: one.event,
            since: one.since,
            within_seconds: one.within.as_secs(),
        });
        let WorkCounts { in_hand, oldest, waiting } = self.health.work.counts();
        InstanceStatus {
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            started: self.started,
            at: crate::clock::now(),
            in_hand,
            oldest_in_hand: oldest,
            waiting: waiting.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            checks: checks.collect(),
            tasks: tasks.collect(),
            missing_events: missing.collect(),
        }
    }
}
