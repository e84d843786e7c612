//! What one delivery needs on its way through the line, passed as one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    handed,
    record::{MAX_SUBJECT, cut, mask, millis, short, storable},
};
use crate::{
    audit::{MessageRef, Repeatable, Smtp, TemplateRef, Timings},
    broker::Message,
    channel::{MailSeal, Outcome},
    event::Event,
    ledger::{InstanceName, Lease, Owner, Reclaim, State},
    redaction::mask_secrets,
    routing::Delivery,
    template::Rendered,
    trace::Span,
};

/// Fields that a mail takes from its event beside the variables of its route. Without them it could
/// not be rendered again.
const IMPLICIT_FIELDS: [&str; 4] = ["full_name", "username", "email", "timezone"];

/// One delivery of one message: what it is, who holds it, and what is known of the current try.
pub(super) struct DeliveryContext<'a> {
    pub(super) message: &'a Message,
    pub(super) event: &'a Event,
    pub(super) delivery: &'a Delivery,
    pub(super) span: &'a Span,
    pub(super) claim: HeldClaim,
    /// The start of the current try.
    pub(super) began: Instant,
    pub(super) timings: Timings,
    pub(super) message_id: Option<String>,
    /// Why it is not sent.
    pub(super) reason: String,
    /// Values to be masked in everything that is kept.
    pub(super) secrets: Vec<String>,
    /// Nobody can tell whether it went out.
    pub(super) is_unknown: bool,
    /// The recipient was erased: nothing about them is kept.
    pub(super) is_erased: bool,
    /// Subject and template of the rendered message.
    pub(super) rendered: Option<(String, TemplateRef)>,
    /// How the message was rendered and as what it went out.
    pub(super) sent_as: Option<MessageRef>,
    /// Variables for the record.
    pub(super) data: Map<String, Value>,
    pub(super) smtp: Option<Smtp>,
    /// The relay that it goes over, where there are several.
    pub(super) relay: Option<String>,
    /// The relay recognises the mail when it comes again.
    pub(super) repeatable: Option<Repeatable>,
    /// Relays that do not take it.
    pub(super) not_taken_by: Vec<String>,
}

/// A task's claim on a delivery in the ledger.
#[derive(Debug, Clone)]
pub(super) struct HeldClaim {
    pub(super) owner: Owner,
    pub(super) lease: Arc<Lease>,
    /// The ledger's count of claims; an older one has lost the delivery. 0 before a claim is granted.
    pub(super) fence: u64,
    /// The attempt that the claim is for, from 1; the delivery's before a claim is granted.
    pub(super) attempt: u32,
}

impl HeldClaim {
    /// Not granted yet.
    fn new(instance: &Arc<InstanceName>, attempt: u32) -> Self {
        let lease = Arc::new(Lease::new(instance));
        Self { owner: lease.owner(), lease, fence: 0, attempt }
    }

    pub(super) fn is_granted(&self) -> bool {
        self.fence != 0
    }

    pub(super) fn granted(&mut self, fence: u64, attempt: u32) {
        (self.fence, self.attempt) = (fence, attempt);
    }
}

impl<'a> DeliveryContext<'a> {
    pub(super) fn new(
        message: &'a Message,
        event: &'a Event,
        delivery: &'a Delivery,
        span: &'a Span,
        instance: &Arc<InstanceName>,
    ) -> Self {
        Self::with_claim(message, event, delivery, span, HeldClaim::new(instance, delivery.attempt))
    }

    fn with_claim(
        message: &'a Message,
        event: &'a Event,
        delivery: &'a Delivery,
        span: &'a Span,
        claim: HeldClaim,
    ) -> Self {
        Self {
            message,
            event,
            delivery,
            span,
            claim,
            began: Instant::now(),
            timings: Timings { queued_ms: queued_ms(message), ..Timings::default() },
            message_id: None,
            reason: String::new(),
            secrets: delivery.route.secret_values(event),
            is_unknown: false,
            is_erased: false,
            rendered: None,
            sent_as: None,
            data: Map::new(),
            smtp: None,
            relay: None,
            repeatable: None,
            not_taken_by: Vec::new(),
        }
    }

    /// Forgets what an earlier try found out, but for the claim and the relays that do not take it.
    pub(super) fn begin_try(&mut self) {
        let claim = self.claim.clone();
        let not_taken_by = std::mem::take(&mut self.not_taken_by);
        *self = Self::with_claim(self.message, self.event, self.delivery, self.span, claim);
        self.not_taken_by = not_taken_by;
    }

    /// The relay that may have it already.
    pub(super) fn pinned_relay(&self) -> Option<&str> {
        handed::relay(self.message.delivery_headers.as_ref()?.relay.as_deref()?)
    }

    /// How an earlier attempt of unknown outcome has to be repeated, if its relay recognises it.
    pub(super) fn repeats(&self) -> Option<Repeatable> {
        handed::repeatable(self.message.delivery_headers.as_ref()?.relay.as_deref()?)
    }

    /// Who may have the mail, for the ledger and for the headers of a copy.
    pub(super) fn handed(&self) -> Option<String> {
        handed::text(self.relay.as_deref(), self.repeatable)
    }

    /// Keeps for a recovery of the ledger what the claim stands for.
    pub(super) fn keep_latched(&self, state: State) {
        let HeldClaim { owner, lease, fence, attempt } = &self.claim;
        let latch = Reclaim {
            owner: owner.clone(),
            event: self.event.id.value.clone(),
            attempt: *attempt,
            fence: *fence,
            derived: self.delivery.derived,
            relay: self.handed(),
            state,
        };
        lease.keep_latched(&self.delivery.id, latch);
    }

    /// Ends a step; gives its duration in milliseconds.
    pub(super) fn step_ended(&self, step: &'static str, began: Instant) -> f64 {
        self.span.step(step, began);
        millis(began)
    }

    /// Time from publishing to `sent`; from the due time where that came later.
    pub(super) fn latency(&self, sent: Timestamp) -> Duration {
        let published = published_at(self.message).unwrap_or_else(|| self.message.arrived_at());
        let due = published.max(self.event.deliver_at.unwrap_or(published));
        Duration::try_from(sent.duration_since(due)).unwrap_or_default()
    }

    /// Keeps the variables for the record. Defaults need no keeping: they are the route's.
    pub(super) fn keep_variables(&mut self, variables: &Map<String, Value>) {
        let declared = &self.delivery.route.variables;
        let given = variables.iter().filter(|(name, value)| {
            declared.get(*name).is_none_or(|variable| variable.default.as_ref() != Some(*value))
        });
        let given = given.map(|(name, value)| (name.clone(), value.clone()));
        let implicit = IMPLICIT_FIELDS.into_iter().filter(|name| !declared.contains_key(*name));
        let implicit = implicit.filter_map(|name| {
            let text = self.event.text(name)?;
            // The record has this address anyway.
            let is_recipient = text == self.delivery.recipient.as_str();
            (!is_recipient).then(|| (name.to_owned(), Value::from(text)))
        });
        let kept = given.chain(implicit);
        let kept = kept.map(|(name, value)| (name, storable(short(mask(&value, &self.secrets)))));
        self.data = kept.collect();
    }

    pub(super) fn keep_rendered(&mut self, rendered: &Rendered) {
        let subject = mask_secrets(&rendered.subject, &self.secrets);
        let subject = subject.chars().take(MAX_SUBJECT).collect();
        self.rendered = Some((subject, rendered.template.clone()));
        self.sent_as = Some(MessageRef {
            brand: rendered.brand.clone(),
            time_zone: rendered.time_zone.clone(),
            // A short code could be found by trying all of them.
            content_sha256: self.secrets.is_empty().then(|| rendered.sha256()),
            ..MessageRef::default()
        });
    }

    pub(super) fn keep_seal(&mut self, seal: Option<MailSeal>) {
        if let (Some(sent_as), Some(seal)) = (&mut self.sent_as, seal) {
            sent_as.from_address = Some(seal.from_address);
            sent_as.from_name = Some(seal.from_name);
            sent_as.sha256 = self.secrets.is_empty().then_some(seal.sha256);
        }
    }

    pub(super) fn keep_outcome(&mut self, outcome: Outcome) {
        self.is_unknown = matches!(outcome, Outcome::Unknown(..));
        match outcome {
            Outcome::Sent(reply) => self.smtp = reply,
            Outcome::Refused { reply, .. } => {
                self.reason = format!("{} answered {} {}", reply.command, reply.code, reply.reply);
                self.smtp = Some(reply);
            }
            Outcome::Unavailable(reason, reply)
            | Outcome::Interrupted(reason, reply)
            | Outcome::Unknown(reason, reply) => {
                self.reason = reason;
                self.smtp = reply;
            }
            Outcome::Impossible(reason) | Outcome::Unreachable(reason) => self.reason = reason,
            Outcome::Simulated | Outcome::Elsewhere | Outcome::Withheld => {}
        }
        self.reason = mask_secrets(&self.reason, &self.secrets);
        if let Some(smtp) = &mut self.smtp {
            smtp.reply = cut(&mask_secrets(&smtp.reply, &self.secrets));
        }
    }
}

/// When the message was published, as far as the broker's timestamp says.
pub(super) fn published_at(message: &Message) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(message.properties.timestamp?).ok()?).ok()
}

fn queued_ms(message: &Message) -> Option<i64> {
    let published = published_at(message)?;
    Some(crate::clock::now().as_millisecond() - published.as_millisecond())
}
