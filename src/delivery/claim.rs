//! Claiming a delivery: what the ledger and, where it can't know, the audit say about it.

use std::time::Duration;

use tokio::{
    sync::{RwLockReadGuard, RwLockWriteGuard},
    time::timeout,
};

use super::{Pipeline, context::DeliveryContext, record::to_json};
use crate::{
    audit::{Record, Status},
    ledger::{Claim, Input, Reply},
};

/// How long a suspect waits until it is alone. Others wait behind it, so it is not for long.
const QUARANTINE_WAIT: Duration = Duration::from_secs(5);

/// How often a claim or latch is asked for while the ledger recovers.
pub(super) const RECOVERY_LOOK: Duration = Duration::from_millis(200);

/// Holds the quarantine lock until the delivery is settled. A delivery that may have ended its process
/// before holds it alone: should it do so again, it takes no other delivery with it.
pub(super) enum QuarantineGuard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl Pipeline {
    /// Claims the delivery. The ledger's reply is [`Reply::Granted`] where an attempt may be made.
    pub(super) async fn claim(
        &self,
        ctx: &DeliveryContext<'_>,
        is_first_try: bool,
    ) -> (Reply, Option<QuarantineGuard<'_>>) {
        let shared = QuarantineGuard::Shared { _guard: self.quarantine.read().await };
        let reply = self.ask_for_claim(ctx, is_first_try, false).await;
        if reply != Reply::Suspect {
            return (reply, Some(shared));
        }
        drop(shared);
        let Ok(guard) = timeout(QUARANTINE_WAIT, self.quarantine.write()).await else {
            return (reply, None);
        };
        let alone = QuarantineGuard::Alone { _guard: guard };
        (self.ask_for_claim(ctx, is_first_try, true).await, Some(alone))
    }

    async fn ask_for_claim(
        &self,
        ctx: &DeliveryContext<'_>,
        is_first_try: bool,
        alone: bool,
    ) -> Reply {
        let (message, delivery) = (ctx.message, ctx.delivery);
        let mut claim = Claim {
            owner: ctx.claim.owner.clone(),
            event: ctx.event.id.value.clone(),
            attempt: delivery.attempt,
            fresh: is_first_try && !message.redelivered && message.delivery_headers.is_none(),
            audit_is_silent: false,
            tried: 0,
            derived: delivery.derived,
            alone,
        };
        // In which generation of the ledger the audit was asked.
        let mut asked_in = None;
        loop {
            let generation = self.ledger.generation();
            if asked_in != Some(generation) {
                (claim.audit_is_silent, claim.tried) = (false, 0);
            }
            let reply = self.ledger(&delivery.id, Input::Claim(claim.clone())).await;
            match reply {
                Reply::Recovering => tokio::time::sleep(RECOVERY_LOOK).await,
                Reply::AskAudit => match self.last_record(&delivery.id).await {
                    Some(record) if settles(&record, &ctx.event.id.value, delivery.attempt) => {
                        return self.remember(ctx, record).await;
                    }
                    known => {
                        asked_in = Some(generation);
                        let failed = known.filter(|record| record.status == Status::Retrying);
                        claim.tried = failed.map_or(0, |record| record.attempt);
                        claim.audit_is_silent = true;
                    }
                },
                reply => {
                    ctx.claim.lease.granted_in(generation);
                    return reply;
                }
            }
        }
    }

    /// Tells the ledger an outcome that only the audit knows.
    async fn remember(&self, ctx: &DeliveryContext<'_>, record: Record) -> Reply {
        let is_of_another_event = record.event.id != ctx.event.id.value;
        let json = to_json(&record);
        if matches!(record.status, Status::Sent | Status::Simulated) {
            let fact = Input::Sent {
                event: record.event.id,
                attempt: record.attempt,
                record: json.clone(),
                derived: ctx.delivery.derived,
            };
            self.ledger(&ctx.delivery.id, fact).await;
        }
        let record = Some(json);
        if is_of_another_event { Reply::Duplicate { record } } else { Reply::Done { record } }
    }
}

/// Whether a record answers this event's claim for this attempt.
fn settles(record: &Record, event: &str, attempt: u32) -> bool {
    match record.status {
        Status::Sent | Status::Simulated => true,
        Status::Failed | Status::Suppressed | Status::Unknown => {
            record.is_final && record.attempt >= attempt
        }
        // A later event may plan a cancelled reminder again.
        Status::Superseded => record.event.id == event && record.attempt >= attempt,
        // The retry may not have been republished; its copy and this one can't both claim.
        Status::Retrying | Status::Duplicate | Status::Rejected => false,
    }
}
