//! The main line: a message is parsed, routed to deliveries, and each delivery is claimed, composed,
//! sent, decided, settled and recorded.

mod attempt;
mod booking_changes;
mod calendar_entry;
mod claim;
mod compose;
mod context;
pub(crate) mod dead_letters;
pub mod decide;
pub(crate) mod erased_recipient;
mod handed;
mod instrument;
pub(crate) mod planned;
mod record;
pub(crate) mod render_again;
mod republish;
mod resend;
mod retry_until_up;
mod schedule;
mod settle;
pub(crate) mod suppressed;
#[cfg(test)]
mod tests;
mod waiting;

pub use compose::{ComposeError, Composer};
pub(crate) use record::RESEND_OF;
pub(crate) use resend::{ResendError, Resender, TemplateOf};

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tokio::sync::RwLock;

use self::{
    context::DeliveryContext,
    instrument::{EventIgnored, FieldIgnored, MessageProcessed},
};
use crate::{
    audit::{Audit, Status, SuppressionList},
    broker::{Broker, Message},
    channel::Channel,
    config::RateLimit,
    event::{self, Event},
    health::Health,
    ledger::{InstanceName, Ledger},
    metrics::{InternalEvent, Metrics},
    routing::{ChannelKind, Delivery, Identity, Lookup, Priority, Recipient, RoutingTable},
    scheduler::Scheduler,
    status_events::StatusEvents,
    trace::{Span, Tracer},
};

/// Everything that processing a message needs. Another one, with another configuration, may take its place;
/// what it has begun it ends.
#[derive(Clone)]
pub struct Pipeline {
    pub identity: Identity,
    pub routing: Arc<RoutingTable>,
    pub composer: Composer,
    pub ledger: Arc<dyn Ledger>,
    pub audit: Arc<dyn Audit>,
    pub scheduler: Arc<dyn Scheduler>,
    pub email: Arc<dyn Channel>,
    pub sms: Arc<dyn Channel>,
    pub broker: Arc<dyn Broker>,
    /// `None` where they are off.
    pub status_events: Option<Arc<StatusEvents>>,
    pub suppressions: Arc<SuppressionList>,
    pub policy: Policy,
    pub health: Health,
    pub metrics: Metrics,
    pub tracer: Tracer,
    /// Held alone by a delivery that may have ended its process before, shared by all others.
    pub quarantine: Arc<RwLock<()>>,
}

/// What the settings say about deliveries.
#[derive(Debug, Clone)]
pub struct Policy {
    /// This process's name in the ledger and the records.
    pub instance: String,
    /// Under which it claims.
    pub claims_as: Arc<InstanceName>,
    /// The wait before each retry.
    pub retry_schedule: Vec<Duration>,
    /// Most mails to one recipient.
    pub rate_limit: Option<RateLimit>,
    /// How long a delivery may wait for its channel before it is put off.
    pub hold_time: Duration,
    /// How long records are kept.
    pub retention: Duration,
    /// Whether mail is sent at all (`ENABLE_EMAIL_NOTIFICATIONS`).
    pub enabled: bool,
    /// How long before a showtime its reminder goes out (`REMINDER_BEFORE`).
    pub reminder_before: Option<Duration>,
}

/// How a delivery ended, as far as this message is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settlement {
    Recorded(Status),
    /// It had ended before.
    Known,
    /// It goes on with another message.
    Republished,
    /// It goes on when it is due.
    Planned,
}

impl Settlement {
    fn as_str(self) -> &'static str {
        match self {
            Self::Recorded(status) => status.as_str(),
            Self::Known => "known",
            Self::Republished => "handed_off",
            Self::Planned => "planned",
        }
    }
}

const NOT_AUTHENTIC: &str = "its headers are not usher's: they have no valid MAC, and its event does not ask for this delivery";

/// Deliveries of a quorum queue after which a message is put away unread.
const MOST_DELIVERIES: u64 = 10;

impl Pipeline {
    /// Processes one message. When this returns, each of its deliveries is settled and recorded, and
    /// the message may be acknowledged. A service that is down is waited for.
    pub async fn process(&self, mut message: Message) {
        crash_point!("after_receive");
        let _in_flight = self.metrics.received(&message.queue);
        let _in_hand = self.health.work.taken(message.arrived_at());
        if message.is_from_upstream() && message.properties.deliveries_before >= MOST_DELIVERIES {
            let reason = format!(
                "it was delivered {} times before, and never finished",
                message.properties.deliveries_before
            );
            let span = self.tracer.process(&mut message, None);
            self.reject(&message, None, &reason, &span).await;
            return;
        }
        if message.delivery_headers.is_some()
            && !message.is_authentic
            && !message.is_caused_by_its_event(&self.routing, &self.identity)
        {
            message.delivery_headers = None;
            let span = self.tracer.process(&mut message, None);
            self.reject(&message, None, NOT_AUTHENTIC, &span).await;
            return;
        }
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
        event.is_corrected = message.is_corrected();
        self.routing.normalize(&mut event);
        let deliveries = match self.route(message, &event) {
            Ok(deliveries) => deliveries,
            Err(reason) => {
                self.reject(message, Some(&event), &reason, &span).await;
                return;
            }
        };
        if message.delivery_headers.is_none()
            && let Some(expected) = self.routing.expected(&event.kind)
        {
            self.health.expected.arrived(expected, crate::clock::now());
        }
        if message.delivery_headers.is_none() || event.is_corrected {
            self.follow_booking(message, &event).await;
        }
        if message.delivery_headers.is_none()
            && let Lookup::Routes(routes) = self.routing.lookup(&event.kind)
        {
            for reason in self.routing.ignored_in(routes, &event) {
                FieldIgnored { event: &event, reason }.emit(&self.metrics);
            }
        }
        let settlements = deliveries.iter().map(|delivery| {
            let span = span.delivery(delivery);
            self.deliver(message, &event, delivery, span)
        });
        let settlements = join_all(settlements).await;
        MessageProcessed { message, event: &event, settlements: &settlements }.emit(&self.metrics);
        crash_point!("before_ack");
    }

    /// The deliveries of a message: one where its headers name it, else all that the routes ask for.
    fn route(&self, message: &Message, event: &Event) -> Result<Vec<Delivery>, String> {
        if let Some(headers) = &message.delivery_headers {
            let route = self.routing.route(&headers.route);
            let route =
                route.ok_or_else(|| format!("there is no route {:?} any more", headers.route))?;
            route.brand_of(event)?;
            let recipient = Recipient::Address(headers.recipient.clone());
            let (id, route) = (headers.delivery_id.clone(), route.clone());
            return Ok(vec![Delivery::republished(id, route, event, recipient, headers.attempt)]);
        }
        match self.routing.lookup(&event.kind) {
            Lookup::Routes(routes) => {
                routes.iter().try_for_each(|route| route.brand_of(event).map(drop))?;
                Ok(self.routing.deliveries(routes, event, &self.identity))
            }
            Lookup::Ignored => {
                EventIgnored.emit(&self.metrics);
                Ok(Vec::new())
            }
            Lookup::Unknown => Err(format!("unknown event type {:?}", event.kind)),
        }
    }

    /// Schedules a delivery that is due later, republishes one of low priority, and attempts the others.
    async fn deliver(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        span: Span,
    ) -> Settlement {
        let mut ctx = DeliveryContext::new(message, event, delivery, &span, &self.policy.claims_as);
        let settlement = if let Some(due) = ctx.due_later() {
            self.schedule(&mut ctx, due).await
        } else if delivery.priority == Priority::Low && message.delivery_headers.is_none() {
            self.republish_to_low(&ctx).await;
            crash_point!("after_low");
            Settlement::Republished
        } else if message.is_from_upstream() && message.properties.deliveries_before > 0 {
            // A quorum queue drops what it has delivered too often, by default after 20 times from
            // RabbitMQ 4 on, and AMQP does not show its limit.
            self.take_into_custody(&ctx).await;
            Settlement::Republished
        } else {
            // A panic must neither leave the claim with a process that lives, nor end the event's other
            // deliveries.
            match AssertUnwindSafe(self.attempt(&mut ctx)).catch_unwind().await {
                Ok(settlement) => settlement,
                Err(_) => self.panicked(&mut ctx).await,
            }
        };
        span.outcome(settlement.as_str());
        settlement
    }

    fn channel(&self, kind: ChannelKind) -> &dyn Channel {
        match kind {
            ChannelKind::Email => &*self.email,
            ChannelKind::Sms => &*self.sms,
        }
    }
}
