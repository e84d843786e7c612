//! What operators decide about planned mail, for the commands and the API. The reason is recorded before
//! anything is done. A running usher sends what is due now.

use sha2::{Digest, Sha256};

use crate::{
    audit::store::{MongoAudit, actions::Action},
    routing::DeliveryId,
    scheduler::{Planned, State, mongo::MongoScheduler},
};

/// What is to become of planned mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Cancel,
    SendNow,
}

/// Why a decision is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("is not planned")]
    NotPlanned,
    #[error("refused: it is being sent")]
    BeingSent,
    #[error("refused: it is void already")]
    Cancelled,
    #[error("refused: it has been claimed meanwhile")]
    Claimed,
}

/// A decision, and who made it.
#[derive(Debug, Clone)]
pub(crate) struct PlannedDecision {
    pub(crate) decision: Decision,
    /// The same request is carried out once.
    pub(crate) request: String,
    pub(crate) by: String,
    pub(crate) reason: String,
}

/// Carries decisions out.
pub(crate) struct Decider<'a> {
    pub(crate) audit: &'a MongoAudit,
    pub(crate) scheduler: &'a MongoScheduler,
}

impl Decision {
    /// As the audit records it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::SendNow => "send-now",
        }
    }
}

impl Refusal {
    fn of(planned: Option<&Planned>) -> Option<Self> {
        match planned.map(|planned| planned.state) {
            None => Some(Self::NotPlanned),
            Some(State::Planned) => None,
            Some(State::Claimed | State::Published) => Some(Self::BeingSent),
            Some(State::Cancelled) => Some(Self::Cancelled),
        }
    }
}

impl PlannedDecision {
    /// Identifies the request in the store, where a caller's name has no place.
    fn id(&self) -> String {
        let digest = Sha256::digest(format!("{} {}", self.decision.as_str(), self.request));
        hex::encode(&digest[..16])
    }
}

impl Decider<'_> {
    /// Why a decision about this mail would be refused now.
    ///
    /// # Errors
    /// The scheduler does not answer.
    pub(crate) async fn refusal(&self, delivery: &DeliveryId) -> anyhow::Result<Option<Refusal>> {
        Ok(Refusal::of(self.scheduler.get(delivery).await?.as_ref()))
    }

    /// Carries out a decision, or says why not. One that was carried out before succeeds.
    ///
    /// # Errors
    /// The audit or the scheduler does not answer.
    pub(crate) async fn decide(
        &self,
        delivery: &DeliveryId,
        made: &PlannedDecision,
    ) -> anyhow::Result<Result<(), Refusal>> {
        let id = made.id();
        let planned = self.scheduler.get(delivery).await?;
        if planned.as_ref().is_some_and(|planned| planned.decision.as_ref() == Some(&id)) {
            return Ok(Ok(()));
        }
        if let Some(refusal) = Refusal::of(planned.as_ref()) {
            return Ok(Err(refusal));
        }
        let action = Action {
            by: made.by.clone(),
            action: made.decision.as_str(),
            target: delivery.to_string(),
            reason: made.reason.clone(),
        };
        self.audit.record_action(&action).await?;
        let done = match made.decision {
            Decision::Cancel => {
                let reason = format!("cancelled by an operator: {}", made.reason);
                self.scheduler.cancel_by(delivery, &reason, &id).await?
            }
            Decision::SendNow => self.scheduler.send_now(delivery, &id).await?,
        };
        Ok(done.then_some(()).ok_or(Refusal::Claimed))
    }
}
