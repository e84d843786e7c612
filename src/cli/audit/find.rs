//! `usher audit find`.

use std::{process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use console::Style;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    AuditCli, AuditFilter, ShownStatus, WAITING, csv::CsvWriter, recipient, waits_because,
};
use crate::{
    audit::{Record, Status, store::search::Filter},
    cli::embedded::EmbeddedArgs,
    cli::listing::print_total,
    cli::output::{
        Column, Table, faint, fit, print, print_err, print_json, status_style, stdout, width,
    },
    failure::Failure,
    ledger::WaitingMark,
};

/// Terminals narrower than this show the subject or reason on a line of its own.
const WIDE: usize = 110;
/// Terminals narrower than this show the beginning of the ids.
const WIDEST: usize = 150;
/// Characters of an id that identify a delivery; `show` takes them.
const SHORT_ID: usize = 12;
/// How long the total may take to count.
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
const INDENT: &str = "                ";

#[derive(Debug, Args)]
pub(in crate::cli) struct FindArgs {
    #[command(flatten)]
    filter: AuditFilter,
    #[command(flatten)]
    pub(super) source: EmbeddedArgs,
    /// List every record instead of the latest of each delivery.
    #[arg(long)]
    records: bool,
    /// Maximum number of entries.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// List all entries.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = FindFormat::Table)]
    format: FindFormat,
    /// Short for --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FindFormat {
    /// A table as wide as the terminal.
    Table,
    /// One JSON object per line.
    Json,
    /// Comma-separated values below the names of the columns.
    Csv,
}

impl AuditCli {
    pub(super) async fn find(&self, args: &FindArgs) -> Result<ExitCode, Failure> {
        let filter = self.filter(&args.filter).await?;
        if args.filter.status.contains(&ShownStatus::Waiting) && !args.filter.names_deliveries() {
            return Err(Failure::data(
                "what waits is found by --delivery, --booking, --event or --recipient; usher status counts it",
            ));
        }
        let limit = match args.all {
            true => usize::MAX,
            false => usize::try_from(args.limit).unwrap_or(usize::MAX),
        };
        // The latest record of a delivery may be another event's, and is never a duplicate's.
        let every_record = args.records
            || args.filter.event.is_some()
            || filter.statuses.contains(&Status::Duplicate);
        let waiting = match args.filter.includes_waiting() {
            true => self.waiting(&filter).await,
            false => Vec::new(),
        };
        let found = match args.filter.includes_records() {
            true => self.reads.find(&filter, every_record, limit).await,
            false => Ok(Vec::new()),
        };
        let found = found.map_err(Failure::unavailable)?;
        match if args.json { FindFormat::Json } else { args.format } {
            FindFormat::Table => print_table(&waiting, &found),
            FindFormat::Json => {
                waiting.iter().map(waiting_as_json).try_for_each(|mark| print_json(&mark))?;
                found.iter().try_for_each(print_json)?;
            }
            FindFormat::Csv => {
                print_csv(&found)?;
                if !waiting.is_empty() {
                    print_err(&format!("waiting: {}, not in the CSV", waiting.len()));
                }
            }
        }
        self.print_total(&filter, every_record, found.len(), limit, args).await;
        Ok(ExitCode::SUCCESS)
    }

    /// Prints how many of all entries were listed. Where counting takes too long, it prints "more than".
    async fn print_total(
        &self,
        filter: &Filter,
        every_record: bool,
        shown: usize,
        limit: usize,
        args: &FindArgs,
    ) {
        let is_table = !args.json && matches!(args.format, FindFormat::Table);
        if shown < limit {
            print_total(shown, &shown.to_string(), is_table && shown > 0);
            return;
        }
        let count = self.reads.count_found(filter, every_record);
        let total = timeout(COUNT_DEADLINE, count).await.ok().and_then(Result::ok);
        let total = total.map_or_else(|| format!("more than {shown}"), |total| total.to_string());
        print_total(shown, &total, is_table);
    }
}

fn print_csv(records: &[Record]) -> Result<(), Failure> {
    let mut csv = CsvWriter::new(stdout())?;
    records.iter().try_for_each(|record| csv.write(record))?;
    Ok(csv.flush()?)
}

/// Fields of a record where it has them.
fn waiting_as_json(mark: &WaitingMark) -> Value {
    json!({
        "delivery_id": mark.delivery_id,
        "event": {"id": mark.event_id, "type": mark.event_type},
        "route": mark.route,
        "channel": mark.channel,
        "recipient": mark.recipient,
        "attempt": mark.attempt,
        "status": WAITING,
        "final": false,
        "error": {"kind": mark.kind, "message": mark.reason},
        "since": mark.since,
        "at": mark.at,
        "due": mark.until,
    })
}

fn print_table(waiting: &[WaitingMark], records: &[Record]) {
    if records.is_empty() && waiting.is_empty() {
        print("nothing found");
        return;
    }
    let width = width();
    let is_at_least = |columns: usize| width.is_none_or(|width| width >= columns);
    let mut columns = vec![
        Column::Whole("TIME (UTC)"),
        Column::Whole("STATUS"),
        Column::Whole("DELIVERY"),
        Column::Text("TYPE"),
        Column::Text("RECIPIENT"),
    ];
    if is_at_least(WIDE) {
        columns.push(Column::Text("SUBJECT OR REASON"));
    }
    let mut table = Table::new(&columns, width);
    for mark in waiting {
        let reason = waits_because(mark);
        let id = mark.delivery_id.as_str();
        let time = if is_at_least(WIDE) { "%Y-%m-%d %H:%M:%S" } else { "%m-%d %H:%M:%S" };
        let cells: [&str; 6] = [
            &mark.since.strftime(time).to_string(),
            WAITING,
            if is_at_least(WIDEST) { id } else { &id[..SHORT_ID] },
            &mark.event_type,
            &mark.recipient,
            &reason,
        ];
        table.add(&cells[..columns.len()], Style::new().yellow());
    }
    for record in records {
        let time = if is_at_least(WIDE) { "%Y-%m-%d %H:%M:%S" } else { "%m-%d %H:%M:%S" };
        let attempts = match record.attempt {
            0 | 1 => String::new(),
            attempt => format!(" (attempt {attempt})"),
        };
        let id = record.delivery_id.as_str();
        let cells: [&str; 6] = [
            &record.at.strftime(time).to_string(),
            &format!("{}{attempts}", record.status.as_str()),
            if is_at_least(WIDEST) { id } else { &id[..SHORT_ID] },
            &record.event.kind,
            recipient(record),
            subject_or_reason(record),
        ];
        // Rows of sent mail stay plain, so that the others stand out.
        let is_sent = matches!(record.status, Status::Sent | Status::Simulated);
        let style = if is_sent { Style::new() } else { status_style(record.status) };
        table.add(&cells[..columns.len()], style);
    }
    print(table.header());
    let reasons: Vec<String> = waiting.iter().map(waits_because).collect();
    let abouts = reasons.iter().map(String::as_str).chain(records.iter().map(subject_or_reason));
    for (row, about) in table.rows().iter().zip(abouts) {
        print(row);
        if let Some(width) = width.filter(|width| *width < WIDE && !about.is_empty()) {
            let about = fit(about, width.saturating_sub(INDENT.len()));
            print(faint(&format!("{INDENT}{about}")));
        }
    }
}

/// Why a delivery was not sent, else its subject.
fn subject_or_reason(record: &Record) -> &str {
    match &record.error {
        Some(error) if error.message.is_empty() => &error.kind,
        Some(error) => &error.message,
        None => &record.subject,
    }
}
