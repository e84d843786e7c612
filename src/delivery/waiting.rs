//! Marks of deliveries that wait for their channel or are put off, so that they can be found meanwhile.

use std::{convert::Infallible, future::pending, time::Duration};

use jiff::SignedDuration;
use tokio::time::{sleep, timeout};

use super::{Pipeline, context::DeliveryContext};
use crate::{
    health::{Dependency, State},
    ledger::WaitingMark,
    redaction::mask_address,
    routing::ChannelKind,
};

/// Shorter waits leave no mark.
const MARK_AFTER: Duration = Duration::from_secs(2);

/// No delivery waits longer for its mark.
const MARK_TIMEOUT: Duration = Duration::from_secs(1);

/// Beyond the longest delay and hold, for what was put off may wait behind others when it is due.
const KEPT_BEYOND: Duration = Duration::from_secs(3600);

impl Pipeline {
    /// Marks the delivery once it has waited for its channel for some time. Never ends.
    pub(super) async fn mark_long_wait(&self, ctx: &DeliveryContext<'_>) -> Infallible {
        sleep(MARK_AFTER).await;
        let reason = self.channel_trouble(ctx.delivery.route.channel);
        self.mark_waiting(ctx, "unavailable", &reason, None).await;
        pending().await
    }

    /// Marks that the delivery waits, for `wait` where that is known. A mark that fails is missed, not waited for.
    pub(super) async fn mark_waiting(
        &self,
        ctx: &DeliveryContext<'_>,
        kind: &str,
        reason: &str,
        wait: Option<Duration>,
    ) {
        let (delivery, event) = (ctx.delivery, ctx.event);
        let recipient = delivery.recipient.as_str();
        let (arrived, at) = (ctx.message.arrived_at(), crate::clock::now());
        let wait = wait.and_then(|wait| SignedDuration::try_from(wait).ok());
        let mark = WaitingMark {
            delivery_id: delivery.id.clone(),
            event_id: event.id.value.clone(),
            event_type: event.kind.clone(),
            route: delivery.route.name.clone(),
            channel: delivery.route.channel,
            recipient: mask_address(recipient),
            attempt: delivery.attempt.max(ctx.claim.attempt),
            since: event.deliver_at.map_or(arrived, |due| due.max(arrived)),
            until: wait.and_then(|wait| at.checked_add(wait).ok()),
            at,
            kind: kind.to_owned(),
            reason: reason.to_owned(),
        };
        let key = |field: &str, value: &str| self.identity.waiting_key(field, value);
        let mut keys = vec![
            key("delivery", delivery.id.as_str()),
            key("event", &event.id.value),
            key("recipient", &self.identity.recipient_hash(recipient)),
        ];
        keys.extend(ctx.correlation().iter().map(|(name, value)| key(name, value)));
        let longest = self.policy.retry_schedule.iter().max().copied().unwrap_or_default();
        let marking = self.ledger.mark_waiting(
            &mark,
            &keys,
            longest.max(self.policy.hold_time) + KEPT_BEYOND,
        );
        let failed = match timeout(MARK_TIMEOUT, marking).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        tracing::debug!(delivery_id = %delivery.id, error = failed, "the wait could not be marked");
    }

    /// Why mail waits for its channel.
    pub(super) fn channel_trouble(&self, channel: ChannelKind) -> String {
        let health = &self.health;
        let (own, relays) = match channel {
            ChannelKind::Email => (&health.smtp, &health.relays[..]),
            ChannelKind::Sms => (&health.sms, &[][..]),
        };
        let down = |one: &Dependency| match one.state() {
            State::Down(reason) => Some(format!("{}: {reason}", one.name())),
            _ => None,
        };
        let down = down(own).or_else(|| relays.iter().find_map(down));
        down.unwrap_or_else(|| "every connection is in use, or the rate is reached".to_owned())
    }
}
