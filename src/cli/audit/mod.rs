//! `usher audit`: the records of every delivery. Only `erase` changes them; `resend` makes a new delivery.

mod checkpoint_file;
mod csv;
mod erase;
mod export;
mod find;
mod resend;
mod show;
mod stats;
mod stats_by;
mod verify;

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;

use super::{delivery_ids, output::print_err, time::past};
use crate::{
    app::configuration::{self, Configuration},
    audit::{
        ReadAudit, Record, Status,
        store::{MongoAudit, search::Filter},
    },
    config::Settings,
    failure::Failure,
    ledger::{Ledger, WaitingMark},
    logging,
    metrics::Metrics,
    redaction::ERASED,
    routing::Identity,
    status::{self, WaitingFilter},
    supervisor::Supervisor,
    template::store::TemplateStore,
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Find deliveries, newest first, each with its latest status.
    Find(find::FindArgs),
    /// Show every attempt of a delivery, and render its mail again.
    Show(show::ShowArgs),
    /// Count deliveries by status, type and time, or by who sends and gets them.
    Stats(stats::StatsArgs),
    /// Write records to standard output, oldest first.
    Export(export::ExportArgs),
    /// Compare the records with their chains and with the signed checkpoints.
    Verify(verify::VerifyArgs),
    /// Send a mail once more, as a new delivery: the customer deleted it.
    Resend(resend::ResendArgs),
    /// Erase a recipient's personal data from everything that was published until now.
    Erase(erase::EraseArgs),
}

#[derive(Debug, Args)]
struct AuditFilter {
    /// Only this delivery: its id, or the beginning.
    #[arg(long, value_name = "ID")]
    delivery: Option<String>,
    /// Only deliveries about this booking.
    #[arg(long, value_name = "ID")]
    booking: Option<String>,
    /// Only deliveries about this id, such as transaction_id=TX-1: any name that `correlation` has in the routes file.
    #[arg(long, value_name = "NAME=ID", value_parser = correlation)]
    about: Option<(String, String)>,
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
    #[arg(long, value_delimiter = ',', value_parser = shown_status())]
    status: Vec<ShownStatus>,
    /// Only records since TIME: 2030-01-31T20:00:00Z, 2030-01-31 (UTC), or a duration before now such as 7d.
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
    /// Only records before TIME.
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<Timestamp>,
}

/// Status of a delivery that waits; no record has it.
const WAITING: &str = "waiting";

/// A status as `audit find` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShownStatus {
    Recorded(Status),
    Waiting,
}

fn shown_status() -> impl TypedValueParser<Value = ShownStatus> {
    let names = Status::ALL.map(Status::as_str).into_iter().chain([WAITING]);
    PossibleValuesParser::new(names).try_map(|text| {
        if text == WAITING {
            return Ok(ShownStatus::Waiting);
        }
        let status = Status::ALL.into_iter().find(|status| status.as_str() == text);
        status.map(ShownStatus::Recorded).ok_or("unknown status")
    })
}

impl AuditFilter {
    fn recorded_statuses(&self) -> Vec<Status> {
        let recorded = self.status.iter().filter_map(|status| match status {
            ShownStatus::Recorded(status) => Some(*status),
            ShownStatus::Waiting => None,
        });
        recorded.collect()
    }

    /// Whether deliveries that wait are asked for, with others or alone.
    fn includes_waiting(&self) -> bool {
        self.status.is_empty() || self.status.contains(&ShownStatus::Waiting)
    }

    /// Whether it names what waiting deliveries are found by.
    fn names_deliveries(&self) -> bool {
        let named = [&self.delivery, &self.booking, &self.event, &self.recipient];
        named.iter().any(|name| name.is_some())
    }

    /// Whether anything is asked for that has a record.
    fn includes_records(&self) -> bool {
        self.status.is_empty() || !self.recorded_statuses().is_empty()
    }
}

fn correlation(text: &str) -> Result<(String, String), String> {
    let (name, id) = text.split_once('=').ok_or("write NAME=ID")?;
    match name.is_empty() || name.contains(['.', '$']) {
        true => Err(format!("{name:?} is not a name")),
        false => Ok((name.to_owned(), id.to_owned())),
    }
}

struct AuditCli {
    audit: Arc<MongoAudit>,
    /// That of the embedded mode where it was asked for.
    reads: Arc<dyn ReadAudit>,
    is_embedded: bool,
    settings: Settings,
    /// Redis may be down.
    ledger: Arc<dyn Ledger>,
    identity: Identity,
}

pub(super) async fn run(config: Option<&Path>, command: AuditCommand) -> Result<ExitCode, Failure> {
    // Those that only read the audit need neither routes nor templates.
    let settings = configuration::settings(config)?;
    logging::init_quiet(settings.log_format)?;
    let supervisor = Supervisor::default();
    let audit = configuration::open_audit(&settings, Metrics::default(), &supervisor).await?;
    let audit = Arc::new(audit);
    let embedded = match &command {
        AuditCommand::Find(args) => args.source.open(&settings)?,
        AuditCommand::Show(args) => args.source.open(&settings)?,
        AuditCommand::Stats(args) => args.source.open(&settings)?,
        _ => None,
    };
    let is_embedded = embedded.is_some();
    let (reads, ledger): (Arc<dyn ReadAudit>, Arc<dyn Ledger>) = match embedded {
        Some(embedded) => (embedded.audit.clone(), embedded.ledger()),
        None => (audit.clone(), Arc::new(configuration::open_ledger(&settings, &supervisor)?)),
    };
    let identity = Identity::new(settings.pepper.expose());
    let cli = AuditCli { audit, reads, is_embedded, settings, ledger, identity };
    let load = || -> Result<Configuration, Failure> {
        let loaded = configuration::load(config)?;
        if !is_embedded {
            loaded.templates.kept_in(&TemplateStore::new(cli.audit.database()));
        }
        Ok(loaded)
    };
    match command {
        AuditCommand::Find(args) => cli.find(&args).await,
        AuditCommand::Show(args) => cli.show(&args, &load()?).await,
        AuditCommand::Stats(args) => cli.stats(&args).await,
        AuditCommand::Export(args) => cli.export(&args).await,
        AuditCommand::Verify(args) => cli.verify(&args).await,
        AuditCommand::Resend(args) => cli.resend(&args, &load()?).await,
        AuditCommand::Erase(args) => cli.erase(&args, &load()?).await,
    }
}

impl AuditCli {
    async fn filter(&self, args: &AuditFilter) -> Result<Filter, Failure> {
        let hash = |address: &String| self.identity.recipient_hash(address);
        let delivery = match &args.delivery {
            Some(beginning) => Some(delivery_ids::from_beginning(&*self.reads, beginning).await?),
            None => None,
        };
        Ok(Filter {
            delivery,
            booking: args.booking.clone(),
            correlation: args.about.clone(),
            event: args.event.clone(),
            recipient_hash: args.recipient.as_ref().map(hash),
            kind: args.kind.clone(),
            statuses: args.recorded_statuses(),
            since: args.since,
            until: args.until,
            ..Filter::default()
        })
    }

    /// The deliveries that wait now and fit the filter. Nothing is found by type, status and time alone.
    async fn waiting(&self, filter: &Filter) -> Vec<WaitingMark> {
        let named = WaitingFilter {
            delivery: filter.delivery.as_ref(),
            booking: filter.booking.as_deref(),
            event: filter.event.as_deref(),
            recipient_hash: filter.recipient_hash.as_deref(),
        };
        let found = status::waiting(&*self.ledger, &*self.reads, &self.identity, &named).await;
        let mut found = found.unwrap_or_else(|reason| {
            print_err(&format!("what waits could not be read: {reason}"));
            Vec::new()
        });
        found.retain(|mark| {
            filter.correlation.is_none()
                && filter.kind.as_ref().is_none_or(|kind| *kind == mark.event_type)
                && filter.since.is_none_or(|since| mark.at >= since)
                && filter.until.is_none_or(|until| mark.at < until)
        });
        found
    }
}

/// Why a delivery waits, and when it is tried again.
fn waits_because(mark: &WaitingMark) -> String {
    let again = mark.until.map(|until| format!("; again at {}", until.strftime("%H:%M:%S")));
    format!("{}{}", mark.reason, again.unwrap_or_default())
}

/// The recipient's address, or a note that it was erased.
fn recipient(record: &Record) -> &str {
    match record.recipient.as_str() {
        "" if record.erased_at.is_some() => ERASED,
        address => address,
    }
}
