//! One attempt at one delivery: wait for the channel, claim, prepare, send, decide, settle.

use std::time::{Duration, Instant};

use tokio::{join, time::timeout};

use super::{
    Pipeline, Settlement,
    claim::RECOVERY_LOOK,
    context::DeliveryContext,
    decide::{Decision, decide, wait_before},
    erased_recipient, handed,
    instrument::{ClaimLost, KnownDelivery, TemplateFellBack},
    record::millis,
    resend::template_of,
};
use crate::{
    audit::{Record, Repeatable, TemplateRef},
    broker::DEFER,
    channel::{Outcome, Outgoing, Slot, SlotRequest},
    event::Event,
    ledger::{Admission, Input, NextStep, Reply, State},
    metrics::InternalEvent,
    routing::{ChannelKind, OnUnknown, Recipient},
    template::Source,
};

/// How old the look at a booking may be when its mail is composed.
const BOOKING_LOOK_MAX_AGE: Duration = Duration::from_secs(1);

/// A place on the channel, and why the delivery makes no sense any more, if a later event says so.
struct Ready {
    slot: Box<dyn Slot>,
    superseded: Option<String>,
}

impl Pipeline {
    /// Claims, sends and settles.
    pub(super) async fn attempt(&self, ctx: &mut DeliveryContext<'_>) -> Settlement {
        let mut is_first_try = true;
        loop {
            let Some(ready) = self.wait_for_channel(ctx).await else {
                return self.put_back(ctx).await;
            };
            if let Some(settlement) = self.try_once(ctx, ready, is_first_try).await {
                return settlement;
            }
            is_first_try = false;
            ctx.begin_try();
        }
    }

    /// One try with one place on the channel; `None` where nothing went out and the claim may be lost,
    /// so that it has to be asked for again.
    async fn try_once(
        &self,
        ctx: &mut DeliveryContext<'_>,
        Ready { slot, superseded }: Ready,
        is_first_try: bool,
    ) -> Option<Settlement> {
        let (reply, _quarantine) = self.claim(ctx, is_first_try).await;
        crash_point!("after_claim");
        ctx.timings.claim_ms = ctx.step_ended("claim", ctx.began);
        let Reply::Granted { fence, attempt } = reply else {
            // Nothing to send: another delivery may have the connection.
            drop(slot);
            return Some(self.settle_unclaimed(ctx, reply).await);
        };
        ctx.claim.granted(fence, attempt);
        crash_event!(&ctx.event.id.value);
        let window = slot.idempotency_window();
        ctx.repeatable = window.and_then(|window| ctx.repeats().or(Repeatable::from_now(window)));
        let prepared = match can_repeat(ctx, slot.as_ref()) {
            true => self.prepare(ctx, superseded).await,
            false => Err(Decision::Park { kind: "unknown" }),
        };
        let outgoing = match prepared {
            Ok(outgoing) => outgoing,
            Err(decision) => {
                drop(slot);
                let decision = keep_unknown(ctx, decision);
                return Some(self.settle(ctx, decision).await);
            }
        };
        crash_point!("after_render");
        let outcome = self.send(ctx, slot, outgoing).await;
        crash_point!("after_reply");
        self.settle_outcome(ctx, outcome).await
    }

    /// Waits for a place on the channel, for as long as a message may be held. Under load, no
    /// connection waits for MongoDB: the booking is looked at meanwhile.
    async fn wait_for_channel(&self, ctx: &DeliveryContext<'_>) -> Option<Ready> {
        let route = &ctx.delivery.route;
        let _waiting = self.health.work.waits_for(route.channel.as_str());
        let channel = self.channel(route.channel);
        // A brand that the event may not choose is told by what composes the mail.
        let brand = route.brand_of(ctx.event).unwrap_or_default();
        let brand = brand.and_then(|name| self.routing.brands().get(name));
        let request = SlotRequest {
            route: &route.name,
            relays: brand.map(|brand| brand.relays.as_slice()).unwrap_or_default(),
            is_retry: ctx.delivery.attempt > 1,
            relay: ctx.pinned_relay(),
            except: &ctx.not_taken_by,
        };
        let ready = timeout(self.policy.hold_time, channel.ready(request));
        let ready = async {
            tokio::select! {
                biased;
                slot = ready => slot,
                never = self.mark_long_wait(ctx) => match never {},
            }
        };
        let (slot, superseded) = join!(ready, self.superseded(ctx));
        Some(Ready { slot: slot.ok()?, superseded })
    }

    /// The channel took nothing for as long as a message may be held: no attempt was made.
    async fn put_back(&self, ctx: &mut DeliveryContext<'_>) -> Settlement {
        ctx.reason = self.channel_trouble(ctx.delivery.route.channel);
        if !ctx.claim.is_granted() {
            self.defer(ctx, "unavailable", &ctx.reason).await;
            return Settlement::Republished;
        }
        let attempt = ctx.claim.attempt;
        self.settle(ctx, Decision::Retry { attempt, wait: DEFER, kind: "unavailable" }).await
    }

    /// Composes the message, or decides what becomes of the delivery without one.
    async fn prepare(
        &self,
        ctx: &mut DeliveryContext<'_>,
        mut superseded: Option<String>,
    ) -> Result<Outgoing, Decision> {
        ctx.is_erased = self.is_late_copy(ctx).await;
        if ctx.is_erased {
            erased_recipient::REASON.clone_into(&mut ctx.reason);
            return Err(Decision::Suppressed);
        }
        if superseded.is_none() && ctx.began.elapsed() > BOOKING_LOOK_MAX_AGE {
            superseded = self.superseded(ctx).await;
        }
        if let Some(reason) = superseded {
            ctx.reason = reason;
            return Err(Decision::Superseded);
        }
        self.check_is_wanted(ctx)?;
        self.check_recipient(ctx)?;
        self.check_suppressions(ctx)?;
        let template = self.template_of_then(ctx).await?;
        let outgoing = self.compose(ctx, template.as_ref())?;
        self.check_rate_limit(ctx).await?;
        let is_mail = ctx.delivery.route.channel == ChannelKind::Email;
        ctx.message_id = is_mail.then(|| outgoing.message_id.clone());
        Ok(outgoing)
    }

    /// Whether the settings, the route and the event still want it to be sent.
    fn check_is_wanted(&self, ctx: &mut DeliveryContext<'_>) -> Result<(), Decision> {
        let (event, route) = (ctx.event, &ctx.delivery.route);
        let (happened_at, now) = (event.happened_at(), crate::clock::now());
        let is_too_old = |max_age: &Duration| {
            happened_at < now && now.duration_since(happened_at).unsigned_abs() > *max_age
        };
        ctx.reason = if !self.policy.enabled && route.channel == ChannelKind::Email {
            "ENABLE_EMAIL_NOTIFICATIONS is off".to_owned()
        } else if let Some(max_age) = route.max_age.filter(is_too_old) {
            format!("older than {max_age:?}")
        } else if event.deliver_before.is_some_and(|end| end < now) {
            "deliver_before has passed".to_owned()
        } else if event.deliver_at.is_some_and(|due| due > now) && !route.secrets.is_empty() {
            "deliver_at: mail with secrets is not kept for later".clone_into(&mut ctx.reason);
            return Err(Decision::DeadLetter { kind: "not_for_later" });
        } else {
            return Ok(());
        };
        Err(Decision::Suppressed)
    }

    fn check_recipient(&self, ctx: &mut DeliveryContext<'_>) -> Result<(), Decision> {
        let (kind, reason) = match &ctx.delivery.recipient {
            Recipient::Missing(reason) => ("missing_recipient", reason.clone()),
            Recipient::Address(address) => {
                match self.channel(ctx.delivery.route.channel).check_recipient(address) {
                    Ok(()) => return Ok(()),
                    Err(reason) => ("invalid_recipient", reason),
                }
            }
        };
        ctx.reason = reason;
        Err(Decision::DeadLetter { kind })
    }

    /// Whether the address bounced, complained or was suppressed by an operator. A route for security
    /// sends in spite of bounces.
    fn check_suppressions(&self, ctx: &mut DeliveryContext<'_>) -> Result<(), Decision> {
        if self.suppressions.is_empty() {
            return Ok(());
        }
        let route = &ctx.delivery.route;
        let hash = self.identity.recipient_hash(ctx.delivery.recipient.as_str());
        let found = self.suppressions.find(route.channel, &hash, crate::clock::now());
        let Some(found) = found.filter(|one| !(route.security && one.reason.is_bounce())) else {
            return Ok(());
        };
        let (reason, since) = (found.reason.as_str(), found.since.strftime("%Y-%m-%d"));
        ctx.reason = format!("on the suppression list since {since}: {reason} {}", found.note);
        Err(Decision::Suppressed)
    }

    /// What an operator wants it to be made from, if that is not the template of now.
    async fn template_of_then(
        &self,
        ctx: &mut DeliveryContext<'_>,
    ) -> Result<Option<(TemplateRef, Source)>, Decision> {
        let headers = ctx.message.delivery_headers.as_ref();
        let Some(template) = headers.and_then(template_of) else { return Ok(None) };
        match self.text_of_then(&template).await {
            Ok(text) => Ok(Some((template, text))),
            Err(not_kept) => {
                ctx.reason = not_kept.to_string();
                Err(Decision::DeadLetter { kind: "template" })
            }
        }
    }

    /// Composes the message. What is known of it by then is kept for the record.
    fn compose(
        &self,
        ctx: &mut DeliveryContext<'_>,
        template: Option<&(TemplateRef, Source)>,
    ) -> Result<Outgoing, Decision> {
        let began = Instant::now();
        let (composer, delivery) = (&self.composer, ctx.delivery);
        // Its arrival is another one where an earlier process has died, and the mail must be the same.
        let steady = ctx.repeatable.filter(|_| ctx.event.occurred_at.is_none());
        let steady = steady.map(|known| Event { arrived_at: known.date, ..ctx.event.clone() });
        let event = steady.as_ref().unwrap_or(ctx.event);
        let composed = composer.variables(delivery, event).and_then(|variables| {
            ctx.keep_variables(&variables);
            composer.compose(delivery, event, &variables, template)
        });
        let outgoing = composed.map_err(|error| {
            ctx.reason = error.to_string();
            Decision::DeadLetter { kind: error.kind() }
        })?;
        if let Some(error) = &outgoing.rendered.instead_of {
            TemplateFellBack { delivery, error }.emit(&self.metrics);
        }
        ctx.keep_rendered(&outgoing.rendered);
        ctx.timings.render_ms = ctx.step_ended("render", began);
        Ok(outgoing)
    }

    /// Puts the delivery off where its recipient's limit is reached, by a delay that exists.
    async fn check_rate_limit(&self, ctx: &mut DeliveryContext<'_>) -> Result<(), Decision> {
        let delivery = ctx.delivery;
        let limit = self.policy.rate_limit.filter(|_| delivery.route.rate_limited);
        let Some(limit) = limit else { return Ok(()) };
        let Admission::After(wait) = self.admit(delivery.recipient.as_str(), limit).await else {
            return Ok(());
        };
        let delays = || self.policy.retry_schedule.iter().copied().chain([DEFER]);
        // The shortest that is long enough, else the longest: it asks again then.
        let long_enough = delays().filter(|delay| *delay >= wait).min();
        let wait = long_enough.or_else(|| delays().max()).unwrap_or(DEFER);
        "the limit per recipient is reached".clone_into(&mut ctx.reason);
        Err(Decision::Retry { attempt: ctx.claim.attempt, wait, kind: "rate_limited" })
    }

    async fn send(
        &self,
        ctx: &mut DeliveryContext<'_>,
        slot: Box<dyn Slot>,
        mut outgoing: Outgoing,
    ) -> Outcome {
        let began = Instant::now();
        ctx.relay = slot.relay().map(ToOwned::to_owned);
        outgoing.date = ctx.repeatable.map(|repeatable| repeatable.date);
        let attempted = slot.send(&outgoing, Box::pin(self.latch(ctx))).await;
        // The largest thing that a delivery holds, and its record may have to wait.
        drop(outgoing);
        ctx.timings.send_ms = millis(began);
        ctx.span.sent(began, attempted.outcome.reply());
        ctx.keep_seal(attempted.mail);
        attempted.outcome
    }

    /// Whether the body may go out: only while the claim is still ours.
    async fn latch(&self, ctx: &DeliveryContext<'_>) -> bool {
        crash_point!("before_latch");
        let input = || {
            let (owner, fence, relay) = (ctx.claim.owner.clone(), ctx.claim.fence, ctx.handed());
            Input::Latch { owner, fence, relay }
        };
        // Another instance may have taken the claim over, and the ledger has lost that.
        let is_void = || ctx.claim.lease.generation() != self.ledger.generation();
        let mut reply = Reply::Recovering;
        while reply == Reply::Recovering && !is_void() {
            reply = self.ledger(&ctx.delivery.id, input()).await;
            if reply == Reply::Recovering {
                tokio::time::sleep(RECOVERY_LOOK).await;
            }
        }
        if matches!(reply, Reply::Granted { .. }) {
            ctx.keep_latched(State::Sending);
        }
        // Looked at after it was kept: a recovery that begins now writes it again.
        let granted = matches!(reply, Reply::Granted { .. }) && !is_void();
        if !granted {
            ClaimLost { delivery: ctx.delivery }.emit(&self.metrics);
        }
        crash_point!("after_latch");
        granted
    }

    /// Decides by the outcome and settles; `None` where the try has to start over.
    async fn settle_outcome(
        &self,
        ctx: &mut DeliveryContext<'_>,
        outcome: Outcome,
    ) -> Option<Settlement> {
        if outcome == Outcome::Elsewhere {
            ctx.not_taken_by.extend(ctx.relay.take());
        }
        let schedule = &self.policy.retry_schedule;
        let attempt = ctx.claim.attempt;
        let wait = wait_before(NextStep::Retry(attempt + 1), attempt, schedule);
        let on_unknown = match ctx.repeatable {
            // No second mail can come of it.
            Some(repeatable) if repeatable.lasts(wait) => OnUnknown::Resend,
            _ => ctx.delivery.route.on_unknown,
        };
        let decision = decide(&outcome, attempt, schedule, on_unknown)?;
        ctx.keep_outcome(outcome);
        let decision = keep_unknown(ctx, decision);
        Some(self.settle(ctx, decision).await)
    }

    /// Does what is left to do where no attempt may be made.
    async fn settle_unclaimed(&self, ctx: &mut DeliveryContext<'_>, reply: Reply) -> Settlement {
        ctx.is_erased = self.is_late_copy(ctx).await;
        match reply {
            Reply::Unresolved { fence, attempt, relay } => {
                ctx.claim.granted(fence, attempt);
                let handed = relay.as_deref();
                ctx.relay = handed.and_then(handed::relay).map(ToOwned::to_owned);
                ctx.repeatable = handed.and_then(handed::repeatable);
                ctx.keep_latched(State::Unknown);
                let reason = "the process that sent it ended before it could say";
                let settled =
                    self.settle_outcome(ctx, Outcome::Unknown(reason.to_owned(), None)).await;
                settled.unwrap_or(Settlement::Republished)
            }
            Reply::CrashLoop { fence, claims } => {
                ctx.claim.granted(fence, ctx.claim.attempt);
                ctx.reason =
                    format!("claimed {claims} times and never finished: it ends its process");
                self.settle(ctx, Decision::Poison { kind: "crash_loop" }).await
            }
            Reply::Republish { next, attempt, record } => {
                self.republish_again(ctx, next, attempt, &record).await;
                Settlement::Republished
            }
            Reply::Done { record } => {
                KnownDelivery.emit(&self.metrics);
                self.write_again(record.as_deref(), ctx.span).await;
                Settlement::Known
            }
            Reply::Duplicate { record } => {
                let first: Option<Record> =
                    record.and_then(|json| serde_json::from_str(&json).ok());
                let first = first.map(|record| record.event.id);
                self.duplicate(ctx, first.as_deref()).await
            }
            // The last five answer no claim; to come back later is right for each of them.
            Reply::Busy
            | Reply::Suspect
            | Reply::Granted { .. }
            | Reply::Lost
            | Reply::Absent
            | Reply::Recovering
            | Reply::AskAudit => {
                self.defer_to_owner(ctx).await;
                Settlement::Republished
            }
        }
    }

    /// A panic is our own fault and the message is evidence: it becomes poison, and an operator looks.
    pub(super) async fn panicked(&self, ctx: &mut DeliveryContext<'_>) -> Settlement {
        ctx.begin_try();
        "processing it panicked".clone_into(&mut ctx.reason);
        if !ctx.claim.is_granted() {
            self.reject(ctx.message, Some(ctx.event), &ctx.reason, ctx.span).await;
            return Settlement::Republished;
        }
        self.settle(ctx, Decision::Poison { kind: "panicked" }).await
    }
}

/// Whether the mail may go out on this place: one of unknown outcome only where it is recognised.
fn can_repeat(ctx: &mut DeliveryContext<'_>, slot: &dyn Slot) -> bool {
    let Some(repeats) = ctx.repeats() else { return true };
    let is_recognised = repeats.lasts(Duration::ZERO)
        && slot.idempotency_window().is_some()
        && slot.relay() == ctx.pinned_relay();
    if is_recognised || ctx.delivery.route.on_unknown == OnUnknown::Resend {
        return true;
    }
    ctx.relay = ctx.pinned_relay().map(ToOwned::to_owned);
    "the relay may not recognise its idempotency key any more".clone_into(&mut ctx.reason);
    false
}

/// What failed at a repetition says nothing about the mail that it repeats.
fn keep_unknown(ctx: &mut DeliveryContext<'_>, decision: Decision) -> Decision {
    let is_failed = matches!(decision, Decision::DeadLetter { .. } | Decision::Park { .. });
    if !is_failed || ctx.repeats().is_none() {
        return decision;
    }
    ctx.is_unknown = true;
    Decision::Park { kind: "unknown" }
}
