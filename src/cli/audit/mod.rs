//! `usher audit`: the records of every delivery. Only `erase` changes them.

mod csv;
mod erase;
mod export;
mod find;
pub(super) mod render_again;
mod show;
mod stats;

use std::{path::Path, process::ExitCode};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;

use super::time::past;
use crate::{
    app::configuration,
    audit::{
        Record, Status,
        store::{MongoAudit, search::Filter},
    },
    failure::Failure,
    logging,
    metrics::Metrics,
    redaction::ERASED,
    routing::Identity,
    supervisor::Supervisor,
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Find deliveries, newest first, each with its latest status.
    Find(find::FindArgs),
    /// Show every attempt of a delivery, and render its mail again.
    Show(show::ShowArgs),
    /// Count deliveries by status, type and time.
    Stats(stats::StatsArgs),
    /// Write records to standard output, oldest first.
    Export(export::ExportArgs),
    /// Erase a recipient's personal data from everything that was published until now.
    Erase(erase::EraseArgs),
}

#[derive(Debug, Args)]
struct AuditFilter {
    /// Only deliveries about this booking.
    #[arg(long, value_name = "ID")]
    booking: Option<String>,
    /// Only deliveries for this event.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only deliveries to this address, also if it was erased.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only deliveries for this event type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only deliveries with one of these statuses, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = status())]
    status: Vec<Status>,
    /// Only records since TIME: 2030-01-31T20:00:00Z, 2030-01-31 (UTC), or a duration before now such as 7d.
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
    /// Only records before TIME.
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<Timestamp>,
}

fn status() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str)).try_map(|text| {
        Status::ALL.into_iter().find(|status| status.as_str() == text).ok_or("unknown status")
    })
}

struct AuditCli {
    audit: MongoAudit,
    identity: Identity,
}

pub(super) async fn run(config: Option<&Path>, command: AuditCommand) -> Result<ExitCode, Failure> {
    // Those that only read the audit need neither routes nor templates.
    let settings = configuration::settings(config)?;
    logging::init_quiet(settings.log_format)?;
    let audit =
        configuration::open_audit(&settings, Metrics::default(), &Supervisor::default()).await?;
    let cli = AuditCli { audit, identity: Identity::new(settings.pepper.expose()) };
    match command {
        AuditCommand::Find(args) => cli.find(&args).await,
        AuditCommand::Show(args) => cli.show(&args, &configuration::load(config)?).await,
        AuditCommand::Stats(args) => cli.stats(&args).await,
        AuditCommand::Export(args) => cli.export(&args).await,
        AuditCommand::Erase(args) => cli.erase(&args, &configuration::load(config)?).await,
    }
}

impl AuditCli {
    fn filter(&self, args: &AuditFilter) -> Filter {
        let hash = |address: &String| self.identity.recipient_hash(address);
        Filter {
            booking: args.booking.clone(),
            event: args.event.clone(),
            recipient_hash: args.recipient.as_ref().map(hash),
            kind: args.kind.clone(),
            statuses: args.status.clone(),
            since: args.since,
            until: args.until,
            ..Filter::default()
        }
    }
}

/// The recipient's address, or a note that it was erased.
fn recipient(record: &Record) -> &str {
    match record.recipient.as_str() {
        "" if record.erased_at.is_some() => ERASED,
        address => address,
    }
}
