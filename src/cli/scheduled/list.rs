//! `usher scheduled list` and `show`.

use std::process::ExitCode;

use console::Style;
use jiff::Timestamp;
use serde_json::Value;

use super::{ScheduledCli, ScheduledFilter};
use crate::{
    audit::Record,
    cli::{
        delivery_id,
        output::{Column, Table, print, print_json, width},
    },
    failure::Failure,
    scheduler::{OVERDUE, Planned, mongo::PlannedFilter},
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
        limit: i64,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let filter = PlannedFilter {
            state: filter.state,
            booking: filter.booking.clone(),
            since: filter.since,
            until: filter.until,
        };
        let planned = self.scheduler.find(&filter, limit).await.map_err(Failure::unavailable)?;
        print_entries(&planned, &[], json, "nothing is planned")?;
        Ok(ExitCode::SUCCESS)
    }

    /// Planned mail that should have been sent, and retries whose message was lost with its queue.
    /// Only the audit knows of those retries, and it keeps no bodies: they can be shown, not sent.
    pub(super) async fn list_overdue(&self, limit: i64, json: bool) -> Result<ExitCode, Failure> {
        let before = Timestamp::now() - OVERDUE;
        let planned = self.scheduler.overdue(before, limit).await.map_err(Failure::unavailable)?;
        let mut retries = self.audit.overdue_retries(before).await.map_err(Failure::unavailable)?;
        retries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        print_entries(&planned, &retries, json, "nothing is overdue")?;
        Ok(ExitCode::SUCCESS)
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
    json: bool,
    if_none: &str,
) -> Result<(), Failure> {
    if json {
        for entry in planned {
            print_json(&without_event(entry)?)?;
        }
        for record in retries {
            print_json(record)?;
        }
        return Ok(());
    }
    if planned.is_empty() && retries.is_empty() {
        print(if_none);
        return Ok(());
    }
    let mut table = Table::new(&COLUMNS, width());
    for entry in planned {
        add_planned(&mut table, entry);
    }
    for record in retries {
        add_retry(&mut table, record);
    }
    table.print();
    Ok(())
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
