//! One attempt at one delivery.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::{join, time::timeout};

use super::{
    End, Hold, Pipeline,
    claim::Claimed,
    decide::{self, Verdict, dead},
    erased_recipient,
    extras::extras,
    record::{Story, millis},
};
use crate::{
    audit::{Record, Status},
    broker::{DEFER, Message},
    channel::{Outcome, Outgoing},
    event::Event,
    ledger::{Admission, Input, Next, Reply},
    routing::{ChannelKind, Delivery, Recipient},
    trace::Span,
};

/// How long a suspect waits until it is alone; others wait behind it, so it is not for long.
const ALONE_WAIT: Duration = Duration::from_secs(5);

/// How old the look at a booking may be when its mail is made.
const FRESH: Duration = Duration::from_secs(1);

/// Why a delivery is not sent, found before anything left the house.
enum Hindrance {
    /// The event's fault.
    Dead { kind: &'static str, reason: String },
    /// Ours, on purpose.
    Suppressed(String),
    /// A later event's.
    Superseded(String),
}

impl Pipeline {
    /// Claims, renders, sends and settles.
    pub(super) async fn attempt(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        hold: &Hold,
        span: &Span,
    ) -> End {
        let mut first_try = true;
        loop {
            let mut story = Story::new(message, event, delivery, span);
            let waiting = Instant::now();
            let ready =
                timeout(self.policy.hold_time, self.channel(delivery.route.channel).ready());
            // At the same time, so that under load no connection waits for MongoDB.
            let (ready, mut superseded) = join!(ready, self.superseded(&story));
            let Ok(slot) = ready else {
                return self.not_ready(story, hold).await;
            };
            let mut company = Some(self.quarantine.read().await);
            let mut claimed =
                self.claim(message, event, delivery, &hold.owner, first_try, false).await;
            let mut alone = None;
            if matches!(claimed, Claimed::Suspect) {
                // Should it end the process again, it takes no innocent with it.
                drop(company.take());
                let Ok(guard) = timeout(ALONE_WAIT, self.quarantine.write()).await else {
                    self.defer(&story).await;
                    return End::Republished;
                };
                alone = Some(guard);
                claimed = self.claim(message, event, delivery, &hold.owner, first_try, true).await;
            }
            let _until_settled = (company, alone);
            crash_point!("after_claim");
            story.timings.claim_ms = story.took("claim", waiting);
            let attempt = match claimed {
                Claimed::Granted { fence, attempt } => {
                    hold.granted(fence, attempt);
                    attempt
                }
                other => {
                    // Nothing to send: somebody else may have the connection.
                    drop(slot);
                    story.is_erased = self.is_late_copy(&story).await;
                    return self.settle_unclaimed(story, other, hold).await;
                }
            };
            crash_event!(&event.id.value);
            story.attempt = attempt;
            story.is_erased = self.is_late_copy(&story).await;
            if superseded.is_none() && waiting.elapsed() > FRESH {
                superseded = self.superseded(&story).await;
            }
            let prepared = if story.is_erased {
                Err(Hindrance::Suppressed(erased_recipient::REASON.to_owned()))
            } else if let Some(reason) = superseded {
                Err(Hindrance::Superseded(reason))
            } else {
                self.prepare(&mut story)
            };
            let outgoing = match prepared {
                Ok(outgoing) => outgoing,
                Err(hindrance) => {
                    drop(slot);
                    return self.settle_hindered(story, hindrance, hold).await;
                }
            };
            if let Some(wait) = self.over_the_limit(delivery).await {
                drop(slot);
                story.reason = "the limit per recipient is reached".to_owned();
                let later = Next::Retry(attempt);
                let verdict = Verdict::Next { next: later, wait, kind: "rate_limited" };
                return self.settle(story, verdict, hold).await;
            }
            let is_mail = delivery.route.channel == ChannelKind::Email;
            story.message_id = is_mail.then(|| outgoing.message_id.clone());
            crash_point!("after_render");
            let sending = Instant::now();
            let latch = self.latch(delivery, hold);
            let outcome = slot.send(&outgoing, Box::pin(latch)).await;
            // The largest thing that a message holds, and its record may have to wait.
            drop(outgoing);
            story.timings.send_ms = millis(sending);
            story.span.sent(sending, outcome.reply());
            crash_point!("after_reply");
            let schedule = &self.policy.retry_schedule;
            let on_unknown = delivery.route.on_unknown;
            let Some(verdict) = decide::decide(&outcome, attempt, schedule, on_unknown) else {
                // Nothing went out, and the claim may be lost: it is asked for again.
                first_try = false;
                continue;
            };
            story.outcome(outcome);
            return self.settle(story, verdict, hold).await;
        }
    }

    /// The channel could not take it for as long as a message may be held.
    async fn not_ready(&self, mut story: Story<'_>, hold: &Hold) -> End {
        story.reason = "the channel is not ready".to_owned();
        if hold.fence() == 0 {
            self.defer(&story).await;
            return End::Republished;
        }
        story.attempt = hold.attempt();
        let later = Next::Retry(story.attempt);
        let verdict = Verdict::Next { next: later, wait: DEFER, kind: "unavailable" };
        self.settle(story, verdict, hold).await
    }

    /// How long this delivery has to wait for its recipient's limit, in a delay that there is.
    async fn over_the_limit(&self, delivery: &Delivery) -> Option<Duration> {
        let limit = self.policy.rate_limit.filter(|_| delivery.route.rate_limited)?;
        let Admission::After(wait) = self.admit(delivery.recipient.as_str(), limit).await else {
            return None;
        };
        let delays = || self.policy.retry_schedule.iter().copied().chain([DEFER]);
        // The shortest that is long enough, else the longest: it asks again then.
        delays().filter(|delay| *delay >= wait).min().or_else(|| delays().max())
    }

    /// May the body go out? Only if the claim is still ours.
    async fn latch(&self, delivery: &Delivery, hold: &Hold) -> bool {
        crash_point!("before_latch");
        let input = Input::Latch { owner: hold.owner.clone(), fence: hold.fence() };
        let granted = matches!(self.ledger(&delivery.id, input).await, Reply::Granted { .. });
        if !granted {
            self.metrics.claim_lost();
        }
        crash_point!("after_latch");
        granted
    }

    /// Renders the message, or says why there is none.
    fn prepare(&self, story: &mut Story<'_>) -> Result<Outgoing, Hindrance> {
        let (event, delivery) = (story.event, story.delivery);
        let rendering = Instant::now();
        if !self.policy.enabled && delivery.route.channel == ChannelKind::Email {
            return Err(Hindrance::Suppressed("ENABLE_EMAIL_NOTIFICATIONS is off".to_owned()));
        }
        let happened_at = event.happened_at();
        if let Some(max_age) = delivery.route.max_age
            && Timestamp::now().duration_since(happened_at).unsigned_abs() > max_age
            && happened_at < Timestamp::now()
        {
            return Err(Hindrance::Suppressed(format!("older than {max_age:?}")));
        }
        if event.deliver_before.is_some_and(|end| end < Timestamp::now()) {
            return Err(Hindrance::Suppressed("deliver_before has passed".to_owned()));
        }
        if event.deliver_at.is_some_and(|due| due > Timestamp::now())
            && !delivery.route.secrets.is_empty()
        {
            let reason = "deliver_at: mail with secrets is not kept for later".to_owned();
            return Err(Hindrance::Dead { kind: "not_for_later", reason });
        }
        let recipient = match &delivery.recipient {
            Recipient::Address(address) => address,
            Recipient::Missing(reason) => {
                return Err(Hindrance::Dead { kind: "missing_recipient", reason: reason.clone() });
            }
        };
        let channel = self.channel(delivery.route.channel);
        if let Err(reason) = channel.check_recipient(recipient) {
            return Err(Hindrance::Dead { kind: "invalid_recipient", reason });
        }
        let language = self.templates.language(event);
        let variables = delivery
            .route
            .variables(event, &self.sources, language)
            .map_err(|fault| Hindrance::Dead { kind: fault.kind(), reason: fault.to_string() })?;
        let rendered = self.templates.render(&delivery.route, &variables, event);
        story.variables(&variables);
        let extras =
            extras(delivery, &variables, event, self.policy.zone.as_ref()).map_err(|fault| {
                Hindrance::Dead { kind: "invalid_attachment", reason: fault.to_string() }
            })?;
        let rendered = rendered
            .map_err(|error| Hindrance::Dead { kind: "template", reason: error.to_string() })?;
        if let Some(error) = &rendered.instead_of {
            self.metrics.template_fell_back();
            tracing::error!(delivery_id = %delivery.id, error, "template in the database failed, the file is used");
        }
        story.rendered(&rendered);
        story.timings.render_ms = story.took("render", rendering);
        let message_id = format!("<{}@{}>", delivery.id, self.policy.message_id_domain);
        Ok(Outgoing { recipient: recipient.clone(), rendered, message_id, extras })
    }

    async fn settle_hindered(
        &self,
        mut story: Story<'_>,
        hindrance: Hindrance,
        hold: &Hold,
    ) -> End {
        match hindrance {
            Hindrance::Dead { kind, reason } => {
                story.reason = reason;
                self.settle(story, dead(kind), hold).await
            }
            Hindrance::Suppressed(reason) => {
                story.reason = reason;
                self.suppress(story, Status::Suppressed, hold).await
            }
            Hindrance::Superseded(reason) => {
                story.reason = reason;
                self.suppress(story, Status::Superseded, hold).await
            }
        }
    }

    /// Our own fault, and the message is evidence: an alarm, and somebody has to look at it.
    pub(super) async fn panicked(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        hold: &Hold,
        span: &Span,
    ) -> End {
        let mut story = Story::new(message, event, delivery, span);
        story.reason = "processing it panicked".to_owned();
        if hold.fence() == 0 {
            self.reject(message, Some(event), &story.reason, span).await;
            return End::Republished;
        }
        story.attempt = hold.attempt();
        let poison = Verdict::Next { next: Next::Poison, wait: Duration::ZERO, kind: "panicked" };
        self.settle(story, poison, hold).await
    }

    /// What is left to do where there was nothing to send.
    async fn settle_unclaimed(&self, mut story: Story<'_>, claimed: Claimed, hold: &Hold) -> End {
        let on_unknown = story.delivery.route.on_unknown;
        match claimed {
            // Not for here; to do nothing loses nothing, for the claim is found again.
            Claimed::Granted { .. } => End::Republished,
            Claimed::Unresolved { fence, attempt } => {
                hold.granted(fence, attempt);
                story.attempt = attempt;
                let outcome = Outcome::Unknown(
                    "the process that sent it ended before it could say".to_owned(),
                );
                let schedule = &self.policy.retry_schedule;
                let Some(verdict) = decide::decide(&outcome, attempt, schedule, on_unknown) else {
                    return End::Republished;
                };
                story.outcome(outcome);
                self.settle(story, verdict, hold).await
            }
            Claimed::CrashLoop { fence, claims } => {
                hold.granted(fence, story.attempt);
                story.reason =
                    format!("claimed {claims} times and never finished: it ends its process");
                let poison =
                    Verdict::Next { next: Next::Poison, wait: Duration::ZERO, kind: "crash_loop" };
                self.settle(story, poison, hold).await
            }
            Claimed::Republish { next, attempt, record } => {
                self.republish_again(story, next, attempt, &record).await;
                End::Republished
            }
            Claimed::Busy | Claimed::Suspect => {
                self.defer(&story).await;
                End::Republished
            }
            Claimed::Over(record) => {
                self.metrics.redelivered();
                self.write_again(record.as_deref(), story.span).await;
                End::Known
            }
            Claimed::Duplicate(record) => {
                let first: Option<Record> =
                    record.and_then(|json| serde_json::from_str(&json).ok());
                let first = first.map(|record| record.event.id);
                self.duplicate(story, first.as_deref()).await
            }
        }
    }
}
