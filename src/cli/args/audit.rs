//! The command line of `usher audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::past;
use crate::audit::Status;

/// What can be asked of the audit.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Find deliveries, newest first, each with the last word on it.
    Find(FindArgs),
    /// Show every attempt of a delivery, and its mail rendered again.
    Show(ShowArgs),
    /// Count what became of the deliveries of some time.
    Stats(StatsArgs),
    /// Write records, oldest first, to standard output as they come.
    Export(ExportArgs),
    /// Forget a recipient: everywhere, and for all that was published until now.
    Erase(EraseArgs),
}

/// Which records.
#[derive(Debug, Args)]
pub struct AuditFilter {
    /// About this booking.
    #[arg(long, value_name = "ID")]
    pub booking: Option<String>,
    /// Asked for by this event.
    #[arg(long, value_name = "ID")]
    pub event: Option<String>,
    /// To this address, erased or not.
    #[arg(long, value_name = "ADDRESS")]
    pub recipient: Option<String>,
    /// Of this event type.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// With this status, such as sent or failed; more than one with commas.
    #[arg(long, value_delimiter = ',', value_parser = status)]
    pub status: Vec<Status>,
    /// Made then or later: a time such as 2030-01-31T20:00:00Z, or so long ago, such as 7d or 12h.
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub since: Option<Timestamp>,
    /// Made before then.
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub until: Option<Timestamp>,
}

/// Options of `audit find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Which.
    #[command(flatten)]
    pub filter: AuditFilter,
    /// Every record instead of the last word on each delivery.
    #[arg(long)]
    pub records: bool,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// How to print them.
    #[arg(long, value_enum, default_value_t = Shape::Table)]
    pub format: Shape,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// Options of `audit show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its id, or the beginning of it.
    pub delivery: String,
    /// Show the mail's HTML too.
    #[arg(long)]
    pub html: bool,
    /// Write the mail's parts to files in this folder instead of printing them.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `audit stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// From then on: a time, or so long ago.
    #[arg(long, value_name = "TIME", value_parser = past, default_value = "7d")]
    pub since: Timestamp,
    /// Before then.
    #[arg(long, value_name = "TIME", value_parser = past, default_value = "0s")]
    pub until: Timestamp,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which.
    #[command(flatten)]
    pub filter: AuditFilter,
    /// One JSON object a line, or a table with one record a line.
    #[arg(long, value_enum, default_value_t = ExportShape::Ndjson)]
    pub format: ExportShape,
}

/// Options of `audit erase`.
#[derive(Debug, Args)]
pub struct EraseArgs {
    /// The address, in any case of letters.
    #[arg(long, value_name = "ADDRESS")]
    pub recipient: String,
    /// Why; recorded, without the address.
    #[arg(long)]
    pub reason: String,
    /// Who does it; recorded.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Do it; without this, only say what would be erased.
    #[arg(long)]
    pub yes: bool,
}

/// How found deliveries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated, with a line of names.
    Csv,
}

/// How records are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportShape {
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated, with a line of names.
    Csv,
}

fn status(text: &str) -> Result<Status, String> {
    let found = Status::ALL.into_iter().find(|status| status.as_str() == text);
    found.ok_or_else(|| {
        let all = Status::ALL.map(Status::as_str).join(", ");
        format!("is none of {all}")
    })
}
