//! What is counted, in Prometheus's names; no address, id or subject is ever a label.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    audit::Record,
    health::{Health, State},
    plan::Outlook,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordLabels {
    route: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DependencyLabels {
    dependency: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HourLabels {
    hour: u64,
}

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    received: Family<QueueLabels, Counter>,
    recorded: Family<RecordLabels, Counter>,
    ignored: Counter,
    redelivered: Counter,
    templates_refused: Counter,
    templates_fell_back: Counter,
    planned: Family<HourLabels, Gauge>,
    planned_overdue: Gauge,
    retries_overdue: Gauge,
    steps: Family<StepLabels, Histogram, fn() -> Histogram>,
    dependencies: Family<DependencyLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("usher");
        let received = Family::default();
        let recorded = Family::default();
        let ignored = Counter::default();
        let redelivered = Counter::default();
        let templates_refused = Counter::default();
        let templates_fell_back = Counter::default();
        let planned = Family::default();
        let planned_overdue = Gauge::default();
        let retries_overdue = Gauge::default();
        let dependencies = Family::default();
        // 0.1 ms to 100 s.
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 4.0, 11));
        let steps = Family::new_with_constructor(buckets);
        registry.register("messages_received", "Messages taken from each queue", received.clone());
        registry.register(
            "deliveries_recorded",
            "Audit records by route and status",
            recorded.clone(),
        );
        registry.register(
            "events_ignored",
            "Events of types that nobody asked to handle",
            ignored.clone(),
        );
        registry.register(
            "deliveries_redelivered",
            "Deliveries met again after their end",
            redelivered.clone(),
        );
        registry.register(
            "templates_refused",
            "Templates of the database that were not accepted",
            templates_refused.clone(),
        );
        registry.register(
            "templates_fell_back",
            "Mails made from a file because the template of the database failed",
            templates_fell_back.clone(),
        );
        registry.register(
            "planned",
            "Mail that is due within each of the next 24 hours, as all instances see it",
            planned.clone(),
        );
        registry.register(
            "planned_overdue",
            "Planned mail that should be gone for 5 minutes",
            planned_overdue.clone(),
        );
        registry.register(
            "retries_overdue",
            "Deliveries whose retry should have been made 5 minutes ago",
            retries_overdue.clone(),
        );
        registry.register_with_unit(
            "delivery_step_duration",
            "Time taken by each step of an attempt: claim, render, send",
            Unit::Seconds,
            steps.clone(),
        );
        registry.register("dependency_up", "Whether a dependency answers", dependencies.clone());
        Self {
            registry: Arc::new(registry),
            received,
            recorded,
            ignored,
            redelivered,
            templates_refused,
            templates_fell_back,
            planned,
            planned_overdue,
            retries_overdue,
            steps,
            dependencies,
        }
    }
}

impl Metrics {
    /// A message was taken from a queue.
    pub fn received(&self, queue: &str) {
        self.received.get_or_create(&QueueLabels { queue: queue.to_owned() }).inc();
    }

    /// An event was of an ignored type.
    pub fn ignored(&self) {
        self.ignored.inc();
    }

    /// A delivery came again after its end.
    pub fn redelivered(&self) {
        self.redelivered.inc();
    }

    /// A template of the database was not accepted.
    pub fn template_refused(&self) {
        self.templates_refused.inc();
    }

    /// A mail was made from a file instead of from the database.
    pub fn template_fell_back(&self) {
        self.templates_fell_back.inc();
    }

    /// What is planned.
    pub fn planned(&self, outlook: &Outlook) {
        for (hour, count) in (0..).zip(outlook.hours) {
            self.planned.get_or_create(&HourLabels { hour }).set(gauge(count));
        }
        self.planned_overdue.set(gauge(outlook.overdue));
    }

    /// So many retries should have been made by now.
    pub fn overdue_retries(&self, count: usize) {
        self.retries_overdue.set(gauge(count));
    }

    /// A record was written.
    pub fn recorded(&self, record: &Record) {
        let labels = RecordLabels { route: record.route.clone(), status: record.status.as_str() };
        self.recorded.get_or_create(&labels).inc();
        let timings = &record.timings;
        for (step, ms) in
            [("claim", timings.claim_ms), ("render", timings.render_ms), ("send", timings.send_ms)]
        {
            if ms > 0.0 {
                self.steps.get_or_create(&StepLabels { step }).observe(ms / 1000.0);
            }
        }
    }

    /// Everything in OpenMetrics text.
    ///
    /// # Errors
    /// The text could not be written.
    pub fn render(&self, health: &Health) -> Result<String, std::fmt::Error> {
        for dependency in health.all() {
            let state = dependency.state();
            if state != State::Unused {
                let labels = DependencyLabels { dependency: dependency.name() };
                self.dependencies.get_or_create(&labels).set(i64::from(state == State::Up));
            }
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
