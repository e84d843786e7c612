//! One way through: receive, route, claim, render, send, record, settle.

/// A log line at a level that is only known now.
macro_rules! log {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            tracing::Level::ERROR => tracing::error!($($fields)*),
            tracing::Level::WARN => tracing::warn!($($fields)*),
            _ => tracing::info!($($fields)*),
        }
    };
}

mod attempt;
mod booking_changes;
mod calendar_entry;
mod claim;
pub mod decide;
pub(crate) mod erased_recipient;
mod extras;
mod record;
mod retry_until_up;
mod schedule;
mod settle;
#[cfg(test)]
mod tests;

pub use extras::extras;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use jiff::tz::TimeZone;
use tokio::sync::RwLock;
use tracing::Level;

use self::record::trace_id;
use crate::{
    audit::{Audit, Status},
    broker::{Broker, DeliveryHeaders, Message},
    channel::Channel,
    event::{self, Event, Sources},
    health::Health,
    ledger::{Ledger, Owner, RateLimit},
    metrics::Metrics,
    routing::{ChannelKind, Delivery, Identity, Lookup, Priority, Recipient, RoutingTable},
    scheduler::Scheduler,
    template::Templates,
    trace::{Span, Tracer},
};

/// Everything that processing a message needs.
pub struct Pipeline {
    /// Makes ids.
    pub identity: Identity,
    /// The routes.
    pub routing: Arc<RoutingTable>,
    /// The templates.
    pub templates: Arc<Templates>,
    /// What variables are derived from beside the event.
    pub sources: Arc<Sources>,
    /// What is known of each delivery.
    pub ledger: Arc<dyn Ledger>,
    /// Where the records go.
    pub audit: Arc<dyn Audit>,
    /// Where mail for later and changed bookings go.
    pub scheduler: Arc<dyn Scheduler>,
    /// The mail channel.
    pub email: Arc<dyn Channel>,
    /// The channel of text messages.
    pub sms: Arc<dyn Channel>,
    /// Where hand-offs go.
    pub broker: Arc<dyn Broker>,
    /// What the settings say.
    pub policy: Policy,
    /// Whether the services answer.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// What is traced.
    pub tracer: Tracer,
    /// Suspects of ending the process go alone, all others side by side.
    pub quarantine: RwLock<()>,
}

/// What the settings say about deliveries.
#[derive(Debug, Clone)]
pub struct Policy {
    /// This process's name in the ledger and the records.
    pub instance: String,
    /// The wait before each retry.
    pub retry_schedule: Vec<Duration>,
    /// Most mails to one recipient.
    pub rate_limit: Option<RateLimit>,
    /// How long a delivery may wait for its channel before it is put off.
    pub hold_time: Duration,
    /// How long records are kept.
    pub retention: Duration,
    /// Whether anything is sent at all (`ENABLE_EMAIL_NOTIFICATIONS`).
    pub enabled: bool,
    /// The right side of Message-IDs.
    pub message_id_domain: String,
    /// How long before a showtime its reminder goes out (`REMINDER_BEFORE`).
    pub reminder_before: Option<Duration>,
    /// Where times without an offset belong (`TIMEZONE`).
    pub zone: Option<TimeZone>,
}

/// How one delivery of a message ended, as far as this message is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With this record.
    Recorded(Status),
    /// It had ended before.
    Known,
    /// It goes on with another message.
    Republished,
    /// It goes on when it is due.
    Planned,
}

/// One task's hold on a delivery, as the ledger knows it.
struct Hold {
    owner: Owner,
    /// 0 before the claim is granted.
    fence: AtomicU64,
    attempt: AtomicU32,
}

impl Hold {
    fn new(instance: &str) -> Self {
        static TOKENS: AtomicU64 = AtomicU64::new(1);
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        let owner = Owner { instance: instance.to_owned(), token };
        Self { owner, fence: AtomicU64::new(0), attempt: AtomicU32::new(0) }
    }

    fn granted(&self, fence: u64, attempt: u32) {
        self.fence.store(fence, Ordering::Relaxed);
        self.attempt.store(attempt, Ordering::Relaxed);
    }

    fn fence(&self) -> u64 {
        self.fence.load(Ordering::Relaxed)
    }

    fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Recorded(status) => status.as_str(),
            Self::Known => "known",
            Self::Republished => "handed_off",
            Self::Planned => "planned",
        }
    }
}

impl Pipeline {
    /// Processes one message. When this returns, every delivery of it is settled and recorded, and
    /// the message may be acknowledged. What is down is waited for.
    pub async fn process(&self, mut message: Message) {
        crash_point!("after_receive");
        let _in_flight = self.metrics.received(&message.queue);
        let parsed = event::parse(&message.body, &message.properties, message.origin());
        let span = self.tracer.process(&mut message, parsed.as_ref().ok());
        let message = &message;
        let mut event = match parsed {
            Ok(event) => event,
            Err(invalid) => {
                self.reject(message, None, &invalid.to_string(), &span).await;
                return;
            }
        };
        event.arrived_at = message.arrived_at();
        self.routing.normalize(&mut event);
        let deliveries = match self.route(message, &event) {
            Ok(deliveries) => deliveries,
            Err(reason) => {
                self.reject(message, Some(&event), &reason, &span).await;
                return;
            }
        };
        if message.delivery_headers.is_none() {
            self.follow(message, &event).await;
        }
        let ends = deliveries.iter().map(|delivery| {
            let span = span.delivery(delivery);
            self.deliver(message, &event, delivery, span)
        });
        let ends = join_all(ends).await;
        self.log_event(message, &event, &ends);
        crash_point!("before_ack");
    }

    /// The deliveries that a message stands for: one for a hand-off, else all that the routes ask
    /// for.
    fn route(&self, message: &Message, event: &Event) -> Result<Vec<Delivery>, String> {
        if let Some(delivery_headers) = &message.delivery_headers {
            let route = self.routing.route(&delivery_headers.route);
            let route = route.ok_or_else(|| {
                format!("there is no route {:?} any more", delivery_headers.route)
            })?;
            let recipient = Recipient::Address(delivery_headers.recipient.clone());
            let (id, route) = (delivery_headers.delivery_id.clone(), route.clone());
            return Ok(vec![Delivery::republished(
                id,
                route,
                event,
                recipient,
                delivery_headers.attempt,
            )]);
        }
        match self.routing.lookup(&event.kind) {
            Lookup::Routes(routes) => Ok(self.routing.deliveries(routes, event, &self.identity)),
            Lookup::Ignored => {
                self.metrics.ignored();
                Ok(Vec::new())
            }
            Lookup::Unknown => Err(format!("unknown event type {:?}", event.kind)),
        }
    }

    async fn deliver(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        span: Span,
    ) -> End {
        let end = self.end(message, event, delivery, &span).await;
        span.outcome(end.as_str());
        end
    }

    async fn end(&self, message: &Message, event: &Event, delivery: &Delivery, span: &Span) -> End {
        if let Some(due) = self.later(message, event, delivery) {
            return self.schedule(message, event, delivery, due).await;
        }
        if delivery.priority == Priority::Low && message.delivery_headers.is_none() {
            self.republish_to_low(message, event, delivery, span).await;
            crash_point!("after_low");
            return End::Republished;
        }
        let hold = Hold::new(&self.policy.instance);
        // A panic must not leave the claim with a process that lives, nor end the event's others.
        let attempt = AssertUnwindSafe(self.attempt(message, event, delivery, &hold, span));
        match attempt.catch_unwind().await {
            Ok(end) => end,
            Err(_) => self.panicked(message, event, delivery, &hold, span).await,
        }
    }

    fn channel(&self, kind: ChannelKind) -> &dyn Channel {
        match kind {
            ChannelKind::Email => &*self.email,
            ChannelKind::Sms => &*self.sms,
        }
    }

    /// One line for each event.
    fn log_event(&self, message: &Message, event: &Event, ends: &[End]) {
        let statuses = ends.iter().filter_map(|end| match end {
            End::Recorded(status) => Some(*status),
            _ => None,
        });
        // The lesser level is the more serious one.
        let level = statuses.map(Status::level).min().unwrap_or(Level::INFO);
        let ends: Vec<&str> = ends.iter().map(|end| end.as_str()).collect();
        log!(
            level,
            event.id = event.id.value,
            event.r#type = event.kind,
            queue = message.queue,
            redelivered = message.redelivered,
            deliveries = ends.len(),
            outcome = ends.join(" "),
            trace_id = trace_id(message),
            "event processed"
        );
    }

    fn delivery_headers(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        attempt: u32,
        reason: &str,
    ) -> DeliveryHeaders {
        DeliveryHeaders {
            delivery_id: delivery.id.clone(),
            event_id: event.id.value.clone(),
            route: delivery.route.name.clone(),
            channel: delivery.route.channel.as_str().to_owned(),
            recipient: delivery.recipient.as_str().to_owned(),
            attempt,
            origin: message.origin().to_owned(),
            reason: reason.to_owned(),
            masked: false,
            arrived_at: Some(message.arrived_at()),
        }
    }
}
