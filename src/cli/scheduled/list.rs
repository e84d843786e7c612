//! `usher scheduled list` and `show`.

use std::process::ExitCode;

use console::Style;
use jiff::Timestamp;
use serde_json::Value;

use super::{ScheduledCli, ScheduledFilter};
use crate::{
    audit::Record,
    cli::{
        delivery_ids::delivery_id,
        listing::{GroupBy, ListArgs, domain},
        output::{Column, Table, print, print_json, width},
    },
    failure::Failure,
    scheduler::{
        OVERDUE, Planned,
        mongo::{PlannedFilter, PlannedSummary},
    },
    text::kind_of_reason,
};

const COLUMNS: [Column; 7] = [
    Column::Whole("DUE (UTC)"),
    Column::Whole("DELIVERY"),
    Column::Whole("STATE"),
    Column::Text("TYPE"),
    Column::Text("BOOKING"),
    Column::Text("RECIPIENT"),
    Column::Text("NOTE"),
];

impl ScheduledCli {
    pub(super) async fn list(
        &self,
        filter: &ScheduledFilter,
        args: &ListArgs,
    ) -> Result<ExitCode, Failure> {
        let filter = PlannedFilter {
            state: filter.state,
            booking: filter.booking.clone(),
            recipient: filter.recipient.clone(),
            since: filter.since,
            until: filter.until,
        };
        let total = self.scheduler.count(&filter).await.map_err(Failure::unavailable)?;
        if total == 0 {
            if !args.json {
                let all = PlannedFilter::of(filter.state);
                let others = self.scheduler.count(&all).await.map_err(Failure::unavailable)?;
                let state = filter.state.as_str();
                match others {
                    0 => print(&format!("nothing is {state}")),
                    _ => {
                        print(&format!("nothing matches; without the filter {others} are {state}"));
                    }
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(by) = args.group_by {
            let found =
                self.scheduler.summaries(&filter, 0, 0).await.map_err(Failure::unavailable)?;
            args.print_groups(found.iter().map(|one| (group_of(one, by), one.due)));
            return Ok(ExitCode::SUCCESS);
        }
        let limit = database_limit(args);
        let planned = self.scheduler.find(&filter, limit).await.map_err(Failure::unavailable)?;
        print_entries(&planned, &[], args, total)
    }

    /// Planned mail that should have been sent, and retries whose message was lost with its queue.
    /// Only the audit knows of those retries, and it keeps no bodies: they can be shown, not sent.
    pub(super) async fn list_overdue(&self, args: &ListArgs) -> Result<ExitCode, Failure> {
        let before = Timestamp::now() - OVERDUE;
        let limit = database_limit(args);
        let planned = self.scheduler.overdue(before, limit).await.map_err(Failure::unavailable)?;
        let late = self.scheduler.count_overdue(before).await.map_err(Failure::unavailable)?;
        let mut retries = self.audit.overdue_retries(before).await.map_err(Failure::unavailable)?;
        let total = late + retries.len() as u64;
        retries.truncate(args.limit() - planned.len());
        if total == 0 {
            if !args.json {
                print("nothing is overdue");
            }
            return Ok(ExitCode::SUCCESS);
        }
        print_entries(&planned, &retries, args, total)
    }

    pub(super) async fn show(&self, delivery: &str, json: bool) -> Result<ExitCode, Failure> {
        let planned = self.get(&delivery_id(delivery)?).await?;
        let planned = planned.ok_or_else(|| Failure::data(format!("{delivery} is not planned")))?;
        match json {
            true => print_json(&planned)?,
            false => print(&serde_json::to_string_pretty(&planned)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_entries(
    planned: &[Planned],
    retries: &[Record],
    args: &ListArgs,
    total: u64,
) -> Result<ExitCode, Failure> {
    let shown = planned.len() + retries.len();
    if args.json {
        for entry in planned {
            print_json(&without_event(entry)?)?;
        }
        for record in retries {
            print_json(record)?;
        }
        args.print_total(shown, total as usize);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&COLUMNS, width());
    for entry in planned {
        add_planned(&mut table, entry);
    }
    for record in retries {
        add_retry(&mut table, record);
    }
    table.print();
    args.print_total(shown, total as usize);
    Ok(ExitCode::SUCCESS)
}

fn group_of(planned: &PlannedSummary, by: GroupBy) -> String {
    let headers = &planned.ticket;
    match by {
        GroupBy::Error => planned.reason.as_deref().map(kind_of_reason).unwrap_or_default(),
        GroupBy::Route => headers.route.clone(),
        GroupBy::Type => planned.event_type.clone(),
        GroupBy::Queue => headers.origin.clone(),
        GroupBy::Domain => domain(&headers.recipient),
    }
}

/// The limit as MongoDB takes it, where 0 means none.
fn database_limit(args: &ListArgs) -> i64 {
    i64::try_from(args.limit()).ok().filter(|limit| *limit < i64::MAX).unwrap_or(0)
}

/// The event has personal data; only `show` prints it.
fn without_event(planned: &Planned) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(planned)?;
    value.as_object_mut().map(|fields| fields.remove("body"));
    Ok(value)
}

fn add_planned(table: &mut Table, entry: &Planned) {
    let cells: [&str; COLUMNS.len()] = [
        &time(entry.due),
        entry.delivery_id.as_str(),
        entry.state.as_str(),
        &entry.event_type,
        entry.booking_id.as_deref().unwrap_or("-"),
        &entry.delivery_headers.recipient,
        entry.reason.as_deref().unwrap_or_default(),
    ];
    table.add(&cells, Style::new());
}

fn add_retry(table: &mut Table, record: &Record) {
    let cells: [&str; COLUMNS.len()] = [
        &record.due.map(time).unwrap_or_default(),
        record.delivery_id.as_str(),
        record.status.as_str(),
        &record.event.kind,
        record.correlation.get("booking_id").map_or("-", String::as_str),
        &record.recipient,
        &format!("attempt {}", record.attempt),
    ];
    table.add(&cells, Style::new());
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
