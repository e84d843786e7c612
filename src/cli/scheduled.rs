//! `usher scheduled`: mail for later. `list` and `show` only look; `cancel` and `send-now` take a
//! reason, which is recorded before anything is done, and do nothing without `--yes`. A running usher
//! sends what is to be sent now.

use std::{path::Path, process::ExitCode};

use jiff::Timestamp;

use super::{
    args::{ChooseArgs, ScheduledCommand, ScheduledFilter},
    dead_letters::delivery_id,
    print,
};
use crate::{
    app::load,
    audit::{
        Record,
        store::{MongoAudit, actions::Action},
    },
    failure::{EXIT_DATA, Failure},
    routing::DeliveryId,
    scheduler::{
        OVERDUE, Planned, Scheduler, State,
        mongo::{MongoScheduler, PlannedFilter},
    },
};

struct ScheduledCli {
    audit: MongoAudit,
    scheduler: MongoScheduler,
}

/// What an operator decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Cancel,
    SendNow,
}

pub(crate) async fn scheduled(
    config: Option<&Path>,
    command: ScheduledCommand,
) -> Result<ExitCode, Failure> {
    let (_, audit) = load::with_audit(config).await?;
    let cli = ScheduledCli { scheduler: MongoScheduler::new(audit.database()), audit };
    match command {
        ScheduledCommand::List { filter, overdue: false, limit, json } => {
            cli.list(&filter, limit, json).await
        }
        ScheduledCommand::List { filter: _, overdue: true, limit, json } => {
            cli.list_overdue(limit, json).await
        }
        ScheduledCommand::Show { delivery, json } => cli.show(&delivery, json).await,
        ScheduledCommand::Cancel(args) => cli.decide(args, Decision::Cancel).await,
        ScheduledCommand::SendNow(args) => cli.decide(args, Decision::SendNow).await,
    }
}

impl ScheduledCli {
    async fn list(
        &self,
        wanted: &ScheduledFilter,
        limit: i64,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let filter = PlannedFilter {
            state: wanted.state,
            booking: wanted.booking.clone(),
            since: wanted.since,
            until: wanted.until,
        };
        let planned = self.scheduler.find(&filter, limit).await.map_err(Failure::unavailable)?;
        for one in &planned {
            print(&line(one, json)?);
        }
        if planned.is_empty() && !json {
            print("nothing is planned");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What should be gone for minutes, and retries that nobody has made: their hand-off was lost with
    /// its queue. Only the audit knows of those, and it has no bodies, so they can only be shown.
    async fn list_overdue(&self, limit: i64, json: bool) -> Result<ExitCode, Failure> {
        let before = Timestamp::now() - OVERDUE;
        let planned = self.scheduler.overdue(before, limit).await.map_err(Failure::unavailable)?;
        for one in &planned {
            print(&line(one, json)?);
        }
        let retries = self.audit.overdue_retries(before).await.map_err(Failure::unavailable)?;
        let shown = usize::try_from(limit).unwrap_or(usize::MAX);
        for record in retries.iter().take(shown) {
            print(&if json { serde_json::to_string(record)? } else { retry_line(record) });
        }
        if planned.is_empty() && retries.is_empty() && !json {
            print("nothing is overdue");
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn show(&self, delivery: &str, json: bool) -> Result<ExitCode, Failure> {
        let planned = self.get(&delivery_id(delivery)?).await?;
        let planned = planned.ok_or_else(|| {
            Failure::new(EXIT_DATA, anyhow::anyhow!("{delivery} is not in the plan"))
        })?;
        print(&if json {
            serde_json::to_string(&planned)?
        } else {
            serde_json::to_string_pretty(&planned)?
        });
        Ok(ExitCode::SUCCESS)
    }

    async fn get(&self, delivery: &DeliveryId) -> Result<Option<Planned>, Failure> {
        self.scheduler.get(delivery).await.map_err(Failure::unavailable)
    }

    async fn decide(&self, args: ChooseArgs, decision: Decision) -> Result<ExitCode, Failure> {
        let mut ok = true;
        for text in &args.deliveries {
            let delivery = delivery_id(text)?;
            let refusal = match self.get(&delivery).await?.map(|planned| planned.state) {
                None => Some("is not in the plan"),
                Some(State::Planned) if !args.yes => None,
                Some(State::Planned) => {
                    let done = self.carry_out(&delivery, &args, decision).await?;
                    (!done).then_some("refused: somebody has claimed it meanwhile")
                }
                Some(State::Claimed | State::Published) => Some("refused: it is on its way"),
                Some(State::Void) => Some("refused: it is void already"),
            };
            ok &= refusal.is_none();
            let done = match (refusal, decision) {
                (Some(refusal), _) => refusal,
                (None, Decision::Cancel) if args.yes => "cancelled",
                (None, Decision::SendNow) if args.yes => "is due now",
                (None, Decision::Cancel) => "would be cancelled",
                (None, Decision::SendNow) => "would be sent now",
            };
            print(&format!("{delivery} {done}"));
        }
        if !args.yes && ok {
            print("nothing was done; --yes does it");
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }

    async fn carry_out(
        &self,
        delivery: &DeliveryId,
        args: &ChooseArgs,
        decision: Decision,
    ) -> Result<bool, Failure> {
        let action = Action {
            by: args.by.clone(),
            action: match decision {
                Decision::Cancel => "cancel",
                Decision::SendNow => "send-now",
            },
            target: delivery.to_string(),
            reason: args.reason.clone(),
        };
        self.audit.act(&action).await.map_err(Failure::unavailable)?;
        let done = match decision {
            Decision::Cancel => {
                let reason = format!("cancelled by an operator: {}", args.reason);
                self.scheduler.void(delivery, &reason).await
            }
            Decision::SendNow => self.scheduler.send_now(delivery).await,
        };
        done.map_err(Failure::unavailable)
    }
}

/// The event itself is for `show`.
fn line(planned: &Planned, json: bool) -> Result<String, Failure> {
    if json {
        let mut value = serde_json::to_value(planned)?;
        value.as_object_mut().map(|fields| fields.remove("body"));
        return Ok(value.to_string());
    }
    let Planned { due, delivery_id, state, event_type, delivery_headers, .. } = planned;
    let booking = planned.booking_id.as_deref().unwrap_or("-");
    let (state, reason) = (state.as_str(), planned.reason.as_deref().unwrap_or_default());
    let due = due.strftime("%Y-%m-%d %H:%M:%SZ");
    let recipient = &delivery_headers.recipient;
    let line =
        format!("{due}  {delivery_id}  {state}  {event_type}  {booking}  {recipient}  {reason}");
    Ok(line.trim_end().to_owned())
}

fn retry_line(record: &Record) -> String {
    let due = record.due.map(|due| due.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    format!(
        "{}  {}  retrying  {}  attempt {}  {}",
        due.unwrap_or_default(),
        record.delivery_id,
        record.event.kind,
        record.attempt,
        record.recipient
    )
}
