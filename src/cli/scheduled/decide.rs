//! `usher scheduled cancel` and `send-now`. The reason is recorded before anything is done. A running
//! usher sends what is due now.

use std::process::ExitCode;

use super::{ScheduledCli, SelectionArgs};
use crate::{
    audit::store::actions::Action,
    cli::{
        decision::{DecisionArgs, NOTHING_DONE},
        delivery_id,
        output::print,
    },
    failure::{EXIT_DATA, Failure},
    routing::DeliveryId,
    scheduler::{Scheduler, State},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Cancel,
    SendNow,
}

impl ScheduledCli {
    pub(super) async fn decide(
        &self,
        args: &SelectionArgs,
        decision: Decision,
    ) -> Result<ExitCode, Failure> {
        let yes = args.decision.yes;
        let by = args.decision.by.name()?;
        let mut ok = true;
        for text in &args.deliveries {
            let delivery = delivery_id(text)?;
            let refusal = match self.get(&delivery).await?.map(|planned| planned.state) {
                None => Some("is not planned"),
                Some(State::Planned) if !yes => None,
                Some(State::Planned) => {
                    let done = self.carry_out(&delivery, &args.decision, &by, decision).await?;
                    (!done).then_some("refused: it has been claimed meanwhile")
                }
                Some(State::Claimed | State::Published) => Some("refused: it is being sent"),
                Some(State::Cancelled) => Some("refused: it is void already"),
            };
            ok &= refusal.is_none();
            let outcome = match (refusal, decision) {
                (Some(refusal), _) => refusal,
                (None, Decision::Cancel) if yes => "cancelled",
                (None, Decision::SendNow) if yes => "is due now",
                (None, Decision::Cancel) => "would be cancelled",
                (None, Decision::SendNow) => "would be sent now",
            };
            print(&format!("{delivery} {outcome}"));
        }
        if !yes && ok {
            print(NOTHING_DONE);
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }

    /// Whether the mail was still planned.
    async fn carry_out(
        &self,
        delivery: &DeliveryId,
        args: &DecisionArgs,
        by: &str,
        decision: Decision,
    ) -> Result<bool, Failure> {
        let action = Action {
            by: by.to_owned(),
            action: match decision {
                Decision::Cancel => "cancel",
                Decision::SendNow => "send-now",
            },
            target: delivery.to_string(),
            reason: args.reason.clone(),
        };
        self.audit.record_action(&action).await.map_err(Failure::unavailable)?;
        let done = match decision {
            Decision::Cancel => {
                let reason = format!("cancelled by an operator: {}", args.reason);
                self.scheduler.cancel(delivery, &reason).await
            }
            Decision::SendNow => self.scheduler.send_now(delivery).await,
        };
        done.map_err(Failure::unavailable)
    }
}
