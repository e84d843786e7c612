//! `usher scheduled cancel` and `send-now`.

use std::process::ExitCode;

use uuid::Uuid;

use super::{ScheduledCli, SelectionArgs};
use crate::{
    cli::{decision::NOTHING_DONE, delivery_ids::delivery_id, output::print},
    delivery::planned::{Decider, Decision, PlannedDecision},
    failure::{EXIT_DATA, Failure},
};

impl ScheduledCli {
    pub(super) async fn decide(
        &self,
        args: &SelectionArgs,
        decision: Decision,
    ) -> Result<ExitCode, Failure> {
        let yes = args.decision.yes;
        let decider = Decider { audit: &self.audit, scheduler: &self.scheduler };
        let made = PlannedDecision {
            decision,
            request: Uuid::new_v4().to_string(),
            by: args.decision.by.name()?,
            reason: args.decision.reason.clone(),
        };
        let mut ok = true;
        for text in &args.deliveries {
            let delivery = delivery_id(text)?;
            let refusal = match yes {
                true => decider.decide(&delivery, &made).await.map(Result::err),
                false => decider.refusal(&delivery).await,
            };
            let refusal = refusal.map_err(Failure::unavailable)?;
            ok &= refusal.is_none();
            let outcome = match (refusal, decision) {
                (Some(refusal), _) => refusal.to_string(),
                (None, Decision::Cancel) if yes => "cancelled".to_owned(),
                (None, Decision::SendNow) if yes => "is due now".to_owned(),
                (None, Decision::Cancel) => "would be cancelled".to_owned(),
                (None, Decision::SendNow) => "would be sent now".to_owned(),
            };
            print(&format!("{delivery} {outcome}"));
        }
        if !yes && ok {
            print(NOTHING_DONE);
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }
}
