//! Taking a delivery: what the ledger and, where it can't know, the audit say about it.

use super::{Pipeline, record::Story};
use crate::{
    audit::{Record, Status},
    broker::Message,
    event::Event,
    ledger::{Claim, Input, Next, Owner, Reply},
    routing::Delivery,
};

/// What became of the wish to make an attempt.
pub(super) enum Claimed {
    /// It is ours.
    Granted { fence: u64, attempt: u32 },
    /// Ours to decide about: an earlier owner may have sent it.
    Unresolved { fence: u64, attempt: u32 },
    /// Ours to put away: it kills its process.
    CrashLoop { fence: u64, claims: u32 },
    /// Decided earlier, and its hand-off may be missing.
    Republish { next: Next, attempt: u32, record: String },
    /// Another one has it.
    Busy,
    /// It may be what ended its process: claim it alone.
    Suspect,
    /// Nothing is left to do but to have this record in the audit.
    Over(Option<String>),
    /// Another event told the same fact.
    Duplicate(Option<String>),
}

impl Pipeline {
    pub(super) async fn claim(
        &self,
        message: &Message,
        event: &Event,
        delivery: &Delivery,
        owner: &Owner,
        first_try: bool,
        alone: bool,
    ) -> Claimed {
        let mut claim = Claim {
            owner: owner.clone(),
            event: event.id.value.clone(),
            attempt: delivery.attempt,
            fresh: first_try && !message.redelivered && message.delivery_headers.is_none(),
            audit_is_silent: false,
            derived: delivery.derived,
            alone,
        };
        loop {
            match self.ledger(&delivery.id, Input::Claim(claim.clone())).await {
                Reply::Granted { fence, attempt } => return Claimed::Granted { fence, attempt },
                Reply::Unresolved { fence, attempt } => {
                    return Claimed::Unresolved { fence, attempt };
                }
                Reply::CrashLoop { fence, claims } => return Claimed::CrashLoop { fence, claims },
                Reply::Republish { next, attempt, record } => {
                    return Claimed::Republish { next, attempt, record };
                }
                // The last two answer no claim; to wait is right for any answer that is none.
                Reply::Busy | Reply::Lost | Reply::Absent => return Claimed::Busy,
                Reply::Suspect => return Claimed::Suspect,
                Reply::Done { record } => return Claimed::Over(record),
                Reply::Duplicate { record } => return Claimed::Duplicate(record),
                Reply::AskAudit => match self.last_record(&delivery.id).await {
                    Some(record) if settles(&record, &event.id.value, delivery.attempt) => {
                        return self.remember(event, delivery, record).await;
                    }
                    _ => claim.audit_is_silent = true,
                },
            }
        }
    }

    /// The audit knows how the delivery ended and the ledger doesn't: tell it.
    async fn remember(&self, event: &Event, delivery: &Delivery, record: Record) -> Claimed {
        let told_by_another = record.event.id != event.id.value;
        let json = Story::to_json(&record);
        if matches!(record.status, Status::Sent | Status::Simulated) {
            let fact = Input::Sent {
                event: record.event.id,
                attempt: record.attempt,
                record: json.clone(),
                derived: delivery.derived,
            };
            self.ledger(&delivery.id, fact).await;
        }
        if told_by_another { Claimed::Duplicate(Some(json)) } else { Claimed::Over(Some(json)) }
    }
}

/// Whether a record is an answer to this event's wish to make this attempt.
fn settles(record: &Record, event: &str, attempt: u32) -> bool {
    match record.status {
        Status::Sent | Status::Simulated => true,
        Status::Failed | Status::Suppressed | Status::Unknown => {
            record.is_final && record.attempt >= attempt
        }
        // A reminder that was voided may be planned again by a later event.
        Status::Superseded => record.event.id == event && record.attempt >= attempt,
        // The retry may not have been handed off; its copy and this one can't both claim.
        Status::Retrying | Status::Duplicate | Status::Rejected => false,
    }
}
