//! What operators ask first: what works, since when, and what waits where. Each part is read by
//! itself and has a deadline, so that a service that is down hides nothing of the others.

mod instance;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::{join, time::timeout};
use utoipa::ToSchema;

pub use self::{
    instance::{Check, InstanceReporter, InstanceStatus, MissingEvent, TaskCheck},
    waiting::{WaitingFilter, waiting},
};
use crate::{
    audit::{
        Status,
        store::{MongoAudit, actions::RetryCounts, search::Filter, statistics::Outcomes},
    },
    broker::amqp::QueueDepth,
    duration,
    ledger::redis::RedisLedger,
    redaction::mask_addresses,
    routing::ChannelKind,
    scheduler::mongo::{MongoScheduler, PlannedCounts},
};

/// How long each part may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Period of the statistics.
const PERIOD: SignedDuration = SignedDuration::from_hours(1);

/// The stores that parts are read from.
pub struct Stores<'s> {
    pub ledger: &'s RedisLedger,
    /// Or why it can't be used.
    pub mongodb: Result<(&'s MongoAudit, &'s MongoScheduler), String>,
}

/// Parts that are `null` could not be read; `unread` says why.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct StatusReport {
    /// Time of this report.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What needs somebody's attention, in sentences; empty if nothing does.
    pub alarms: Vec<String>,
    /// Why parts could not be read.
    pub unread: BTreeMap<&'static str, String>,
    /// The instances that run.
    pub instances: Option<Vec<InstanceStatus>>,
    /// usher's queues and those that it consumes.
    pub queues: Option<Vec<QueueStatus>>,
    /// Mail for later.
    pub planned: Option<PlannedStatus>,
    /// Deliveries that failed and are tried again.
    pub retries: Option<RetryStatus>,
    /// Number of requests by HTTP that are not published yet.
    pub requests: Option<u64>,
    /// Deliveries of the last hour.
    pub last_hour: Option<LastHour>,
}

/// A queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueStatus {
    pub name: String,
    /// `source`, `due`, `delay`, `low`, `unroutable`, `dead`, `poison` or `parked`.
    pub kind: &'static str,
    /// Number of messages that nobody has taken; null if there is no such queue.
    pub messages: Option<u32>,
    /// When the event of its first message arrived, where that was looked at.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Timestamp>,
}

impl QueueStatus {
    /// What somebody has to decide about its messages, and the command that lists them.
    fn awaited_decision(&self) -> Option<String> {
        let count = self.messages.filter(|count| *count > 0)?;
        let (what, list) = match self.kind {
            "dead" => ("deliveries that failed for good", "dead-letters list --group-by error"),
            "poison" => ("messages that can't be processed", "poison list --group-by error"),
            "parked" => ("deliveries of unknown outcome", "parked list"),
            _ => return None,
        };
        Some(format!("{what} wait for a decision: {count}; usher {list}"))
    }
}

/// Mail for later.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannedStatus {
    pub waiting: u64,
    /// When the first is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_due: Option<Timestamp>,
    /// Number that is late by more than five minutes.
    pub overdue: u64,
}

/// Deliveries that failed and are tried again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetryStatus {
    pub waiting: u64,
    /// When the first is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_due: Option<Timestamp>,
}

/// Deliveries of the last hour, each with its latest record.
#[derive(Debug, Serialize, ToSchema)]
pub struct LastHour {
    /// Number of deliveries by status.
    pub statuses: BTreeMap<String, u64>,
    /// Share of deliveries that were sent among those that were sent, failed or unknown, in percent.
    pub delivery_share: Option<f64>,
}

impl From<QueueDepth> for QueueStatus {
    fn from(depth: QueueDepth) -> Self {
        Self { kind: depth.kind(), messages: depth.messages, oldest: None, name: depth.name }
    }
}

/// Reads everything at once. `own` is what the nearest instance says of itself, which is known without
/// Redis; `None` if there is none.
pub async fn collect<E: Display>(
    stores: Stores<'_>,
    own: impl Future<Output = Option<InstanceStatus>>,
    queues: impl Future<Output = Result<Vec<QueueStatus>, E>>,
    requests: impl Future<Output = Result<u64, String>>,
) -> StatusReport {
    let now = crate::clock::now();
    let Stores { ledger, mongodb } = stores;
    let mongodb = mongodb.as_ref();
    let planned = async {
        let (_, scheduler) = mongodb.map_err(Clone::clone)?;
        scheduler.counts(now).await.map_err(|error| error.to_string())
    };
    let retries = async {
        let (audit, _) = mongodb.map_err(Clone::clone)?;
        audit.retry_counts(now).await.map_err(|error| error.to_string())
    };
    let last_hour = async {
        let (audit, _) = mongodb.map_err(Clone::clone)?;
        let filter = Filter { since: Some(now - PERIOD), ..Filter::default() };
        let stats = audit.stats(&filter, false, Some(DEADLINE)).await;
        stats.map(|stats| stats.statuses).map_err(|error| error.to_string())
    };
    let own = async { timeout(DEADLINE, own).await.ok().flatten() };
    let (own, instances, queues, planned, retries, requests, last_hour) = join!(
        own,
        in_time(ledger.instances()),
        in_time(queues),
        in_time(planned),
        in_time(retries),
        in_time(requests),
        in_time(last_hour),
    );
    let mut report = StatusReport { at: now, ..StatusReport::default() };
    let unread = &mut report.unread;
    report.instances = instances_of(own, kept("instances", instances, unread));
    report.queues = kept("queues", queues, unread);
    let planned = kept("planned", planned, unread);
    report.planned = planned.map(|PlannedCounts { waiting, next_due, overdue }| PlannedStatus {
        waiting,
        next_due,
        overdue,
    });
    let retries = kept("retries", retries, unread);
    report.retries =
        retries.map(|RetryCounts { waiting, next_due }| RetryStatus { waiting, next_due });
    report.requests = kept("requests", requests, unread);
    report.last_hour = kept("last_hour", last_hour, unread).map(|statuses| LastHour {
        delivery_share: Outcomes::from_statuses(&statuses).rate(),
        statuses,
    });
    report.alarms = report.find_alarms();
    report
}

async fn in_time<T, E: Display>(part: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(DEADLINE, part).await {
        Ok(read) => read.map_err(|error| mask_addresses(&error.to_string())),
        Err(_) => Err(format!("no answer within {DEADLINE:?}")),
    }
}

fn kept<T>(
    name: &'static str,
    part: Result<T, String>,
    unread: &mut BTreeMap<&'static str, String>,
) -> Option<T> {
    part.map_err(|reason| unread.insert(name, reason)).ok()
}

/// What all instances have told Redis, and the nearest says now. Those of another version may say it in
/// another way; their entries are left out.
fn instances_of(
    own: Option<InstanceStatus>,
    told: Option<Vec<String>>,
) -> Option<Vec<InstanceStatus>> {
    if own.is_none() && told.is_none() {
        return None;
    }
    let mut instances = BTreeMap::new();
    for text in told.unwrap_or_default() {
        if let Ok(one) = serde_json::from_str::<InstanceStatus>(&text) {
            instances.insert(one.instance.clone(), one);
        }
    }
    if let Some(own) = own {
        instances.insert(own.instance.clone(), own);
    }
    let mut instances: Vec<_> = instances.into_values().collect();
    instances.sort_by_key(|one| one.started);
    Some(instances)
}

/// A dependency that is down, as all instances see it.
struct Outage<'r> {
    name: &'r str,
    since: Option<Timestamp>,
    reason: &'r str,
    instances: usize,
}

impl StatusReport {
    /// Number of deliveries that wait for a place on a channel.
    pub fn held(&self, channel: &str) -> u64 {
        let instances = self.instances.iter().flatten();
        instances.filter_map(|one| one.waiting.get(channel)).sum()
    }

    fn find_alarms(&self) -> Vec<String> {
        let mut alarms: Vec<String> =
            self.outages().into_iter().map(|outage| self.describe(&outage)).collect();
        let all = self.instances.as_deref().unwrap_or_default();
        for one in all {
            let failing =
                one.tasks.iter().filter_map(|(name, task)| Some((name, task.error.as_ref()?)));
            alarms.extend(failing.map(|(name, reason)| {
                format!("task {name} of instance {} has failed: {reason}", short(&one.instance))
            }));
        }
        if self.instances.as_ref().is_some_and(Vec::is_empty) {
            alarms.push("no instance is running".to_owned());
        }
        let missing: BTreeMap<&str, &MissingEvent> = all
            .iter()
            .flat_map(|one| &one.missing_events)
            .map(|one| (one.event_type.as_str(), one))
            .collect();
        alarms.extend(missing.values().map(|one| self.describe_missing(one)));
        let versions: BTreeSet<&str> = all.iter().map(|one| one.version.as_str()).collect();
        if versions.len() > 1 {
            let versions: Vec<&str> = versions.into_iter().collect();
            alarms.push(format!("instances have different versions: {}", versions.join(", ")));
        }
        if let Some(overdue) =
            self.planned.as_ref().map(|planned| planned.overdue).filter(|it| *it > 0)
        {
            alarms.push(format!(
                "planned mail is overdue: {overdue}; usher scheduled list --overdue"
            ));
        }
        alarms.extend(self.queues.iter().flatten().filter_map(QueueStatus::awaited_decision));
        alarms.extend(
            self.unread.iter().map(|(part, reason)| format!("{part} could not be read: {reason}")),
        );
        alarms
    }

    fn describe_missing(&self, missing: &MissingEvent) -> String {
        let MissingEvent { event_type, since, within_seconds } = missing;
        let silent = age(self.at.duration_since(*since));
        let within = duration::format(Duration::from_secs(*within_seconds));
        let since = since.strftime("%Y-%m-%d %H:%M:%SZ");
        format!(
            "no {event_type} has come since {since} ({silent}); one is expected within {within}"
        )
    }

    /// Dependencies that are down for at least one instance, in alphabetical order.
    fn outages(&self) -> Vec<Outage<'_>> {
        let mut outages: BTreeMap<&str, Outage<'_>> = BTreeMap::new();
        for one in self.instances.iter().flatten() {
            for (name, check) in one.checks.iter().filter(|(_, check)| check.status == "down") {
                let reason = check.error.as_deref().unwrap_or_default();
                let new = Outage { name, since: check.since, reason, instances: 0 };
                let outage = outages.entry(name).or_insert(new);
                outage.instances += 1;
                if check.since < outage.since {
                    (outage.since, outage.reason) = (check.since, reason);
                }
            }
        }
        outages.into_values().collect()
    }

    fn describe(&self, outage: &Outage<'_>) -> String {
        let Outage { name, since, reason, instances } = *outage;
        let all = self.instances.as_ref().map_or(0, Vec::len);
        let since = since.map(|since| {
            let age = age(self.at.duration_since(since));
            format!(" since {} ({age})", since.strftime("%Y-%m-%d %H:%M:%SZ"))
        });
        let since = since.unwrap_or_default();
        let of = if instances < all {
            format!(" for {instances} of {all} instances")
        } else {
            String::new()
        };
        let (mail, channel) = match name {
            "smtp" => ("mail waits", ChannelKind::Email),
            "sms" => ("text messages wait", ChannelKind::Sms),
            "mailbox" => {
                return format!("reports are not read: {name} is down{since}{of}: {reason}");
            }
            _ => return format!("{name} is down{since}{of}: {reason}"),
        };
        let held = self.held(channel.as_str());
        format!("{mail}: {name} is down{since}{of}: {reason}; deliveries held: {held}")
    }

    /// Number of deliveries of the last hour with this status.
    pub fn in_last_hour(&self, status: Status) -> u64 {
        let hour = self.last_hour.as_ref();
        hour.and_then(|hour| hour.statuses.get(status.as_str()).copied()).unwrap_or_default()
    }
}

/// The part of an instance's id that people read.
pub fn short(instance: &str) -> &str {
    instance.get(..8).unwrap_or(instance)
}

/// A duration in its largest unit, such as `8 min`.
pub fn age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, version: &str, smtp: Option<(i64, &str)>, held: u64) -> InstanceStatus {
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = match smtp {
            None => Check { status: "up".into(), since: Some(at(0)), error: None },
            Some((since, reason)) => {
                Check { status: "down".into(), since: Some(at(since)), error: Some(reason.into()) }
            }
        };
        InstanceStatus {
            instance: name.into(),
            version: version.into(),
            host: "host".into(),
            started: at(0),
            at: at(1000),
            in_hand: held,
            oldest_in_hand: None,
            waiting: BTreeMap::from([("email".to_owned(), held)]),
            checks: BTreeMap::from([("smtp".to_owned(), check)]),
            tasks: BTreeMap::new(),
            missing_events: Vec::new(),
        }
    }

    fn queue(kind: &'static str, messages: u32) -> QueueStatus {
        QueueStatus { name: format!("usher.{kind}"), kind, messages: Some(messages), oldest: None }
    }

    #[test]
    fn a_refused_login_is_told_with_its_first_reason_and_what_it_holds() {
        let instances = vec![
            instance("a", "1.0.0", Some((700, "535 5.7.8 no")), 400),
            instance("b", "1.0.0", Some((520, "535 5.7.8 wrong password")), 12),
            instance("c", "1.1.0", None, 0),
        ];
        let mut instances = instances;
        for one in &mut instances {
            one.missing_events.push(MissingEvent {
                event_type: "payment.success".into(),
                since: Timestamp::from_second(400).unwrap(),
                within_seconds: 300,
            });
        }
        let report = StatusReport {
            at: Timestamp::from_second(1000).unwrap(),
            instances: Some(instances),
            queues: Some(vec![queue("dead", 3), queue("parked", 0), queue("due", 7)]),
            unread: BTreeMap::from([("retries", "no answer".to_owned())]),
            ..StatusReport::default()
        };
        assert_eq!(
            report.find_alarms(),
            [
                "mail waits: smtp is down since 1970-01-01 00:08:40Z (8 min) for 2 of 3 instances: 535 5.7.8 wrong password; deliveries held: 412",
                "no payment.success has come since 1970-01-01 00:06:40Z (10 min); one is expected within 5m",
                "instances have different versions: 1.0.0, 1.1.0",
                "deliveries that failed for good wait for a decision: 3; usher dead-letters list --group-by error",
                "retries could not be read: no answer",
            ]
        );
    }

    #[test]
    fn the_nearest_instance_is_known_without_redis_and_replaces_what_it_told() {
        let of = |status: &InstanceStatus| serde_json::to_string(status).unwrap();
        let (old, new) = (instance("a", "1", None, 1), instance("a", "1", None, 2));
        let other = instance("b", "1", None, 3);
        assert_eq!(instances_of(Some(new.clone()), None), Some(vec![new.clone()]));
        let told = vec![of(&old), of(&other), "{}".to_owned()];
        assert_eq!(instances_of(Some(new.clone()), Some(told)), Some(vec![new, other]));
        assert_eq!(instances_of(None, None), None);
        assert_eq!(instances_of(None, Some(Vec::new())), Some(Vec::new()));
    }
}
