//! `usher scheduled`: mail that is planned for later.

mod decide;
mod list;

use std::{path::Path, process::ExitCode};

use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;

use super::{decision::DecisionArgs, listing::ListArgs, time::from_now};
use crate::{
    app::configuration,
    audit::store::MongoAudit,
    delivery::planned::Decision,
    failure::Failure,
    routing::DeliveryId,
    scheduler::{Planned, State, mongo::MongoScheduler},
    supervisor::Supervisor,
};

#[derive(Debug, Subcommand)]
pub(super) enum ScheduledCommand {
    /// List planned mail, soonest first, or count it.
    List {
        #[command(flatten)]
        filter: ScheduledFilter,
        /// Mail that is 5 minutes late, and retries that were lost, instead of planned mail.
        #[arg(long, conflicts_with_all = ["booking", "recipient", "since", "until", "state", "group_by"])]
        overdue: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one entry with its event.
    Show {
        /// Delivery id.
        delivery: String,
        /// Print the JSON object on one line.
        #[arg(long)]
        json: bool,
    },
    /// Cancel planned mail.
    Cancel(SelectionArgs),
    /// Send planned mail now.
    SendNow(SelectionArgs),
}

#[derive(Debug, Args)]
pub(super) struct ScheduledFilter {
    /// Only mail about this booking.
    #[arg(long, value_name = "ID")]
    booking: Option<String>,
    /// Only mail to this address.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only mail due at or after TIME: 2030-01-31T20:00:00Z, 2030-01-31 (UTC), or a duration from now such as 2h or -1d.
    #[arg(long, value_name = "TIME", value_parser = from_now, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// Only mail due before TIME.
    #[arg(long, value_name = "TIME", value_parser = from_now, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Only mail in this state; `void` is cancelled mail.
    #[arg(long, default_value = "planned", value_parser = state())]
    state: State,
}

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Delivery ids, as `list` prints them.
    #[arg(required = true)]
    deliveries: Vec<String>,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// What operators call `void`.
const CANCELLED: &str = "cancelled";

fn state() -> impl TypedValueParser<Value = State> {
    const STATES: [State; 4] = [State::Planned, State::Claimed, State::Published, State::Cancelled];
    let values = STATES.map(|state| match state {
        State::Cancelled => PossibleValue::new(state.as_str()).alias(CANCELLED),
        _ => PossibleValue::new(state.as_str()),
    });
    PossibleValuesParser::new(values).try_map(|text| match text.as_str() {
        CANCELLED => Ok(State::Cancelled),
        text => STATES.into_iter().find(|state| state.as_str() == text).ok_or("unknown state"),
    })
}

struct ScheduledCli {
    audit: MongoAudit,
    scheduler: MongoScheduler,
}

pub(super) async fn run(
    config: Option<&Path>,
    command: ScheduledCommand,
) -> Result<ExitCode, Failure> {
    let (_, audit) = configuration::load_with_audit(config).await?;
    let cli = ScheduledCli {
        scheduler: MongoScheduler::new(audit.database(), &Supervisor::default()),
        audit,
    };
    match command {
        ScheduledCommand::List { overdue: true, list, .. } => cli.list_overdue(&list).await,
        ScheduledCommand::List { filter, list, .. } => cli.list(&filter, &list).await,
        ScheduledCommand::Show { delivery, json } => cli.show(&delivery, json).await,
        ScheduledCommand::Cancel(args) => cli.decide(&args, Decision::Cancel).await,
        ScheduledCommand::SendNow(args) => cli.decide(&args, Decision::SendNow).await,
    }
}

impl ScheduledCli {
    async fn get(&self, delivery: &DeliveryId) -> Result<Option<Planned>, Failure> {
        self.scheduler.get(delivery).await.map_err(Failure::unavailable)
    }
}
