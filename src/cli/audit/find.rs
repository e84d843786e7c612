//! `usher audit find`.

use std::process::ExitCode;

use super::{AuditCli, csv, print, recipient, words};
use crate::{
    audit::{Record, Status},
    cli::{
        args::{FindArgs, Shape},
        output::{Colour, Column, Screen, colour_of, fit},
    },
    failure::Failure,
};

/// Narrower terminals show what it was about in a line of its own.
const WIDE: usize = 110;
/// From this width on ids are shown whole.
const WIDEST: usize = 150;
/// So much of an id is enough for `show`.
const SHORT_ID: usize = 12;
const INDENT: &str = "                ";

impl AuditCli {
    pub(super) async fn find(&self, args: &FindArgs) -> Result<ExitCode, Failure> {
        let filter = self.filter(&args.filter);
        let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
        // What an event came to and what was a duplicate is told by records that are not the last.
        let every = args.records
            || args.filter.event.is_some()
            || args.filter.status.contains(&Status::Duplicate);
        let found = if every {
            self.audit.newest(&filter, limit).await
        } else {
            self.audit.last_words(&filter, limit).await
        };
        let found = found.map_err(Failure::unavailable)?;
        match if args.json { Shape::Json } else { args.format } {
            Shape::Table => print_table(&found, limit),
            Shape::Json => print_json(&found)?,
            Shape::Csv => {
                print(csv::HEADER);
                found.iter().for_each(|record| print(&csv::line(record)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_json(found: &[Record]) -> Result<(), Failure> {
    for record in found {
        print(&serde_json::to_string(record)?);
    }
    Ok(())
}

fn print_table(found: &[Record], limit: usize) {
    if found.is_empty() {
        print("nothing found");
        return;
    }
    let screen = Screen::new();
    let is_wider = |than: usize| screen.width.is_none_or(|width| width >= than);
    let mut columns = vec![
        Column::whole("TIME (UTC)"),
        Column::whole("STATUS"),
        Column::whole("DELIVERY"),
        Column::text("TYPE"),
        Column::text("RECIPIENT"),
    ];
    if is_wider(WIDE) {
        columns.push(Column::text("SUBJECT OR REASON"));
    }
    let row = |record: &Record| {
        let id = record.delivery_id.as_str();
        let time = if is_wider(WIDE) { "%Y-%m-%d %H:%M:%S" } else { "%m-%d %H:%M:%S" };
        let tries =
            if record.attempt > 1 { format!(" ×{}", record.attempt) } else { String::new() };
        vec![
            record.at.strftime(time).to_string(),
            format!("{}{tries}", record.status.as_str()),
            if is_wider(WIDEST) { id } else { &id[..SHORT_ID] }.to_owned(),
            record.event.kind.clone(),
            recipient(record).to_owned(),
            words(record).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let table = screen.table(&columns, &rows, |row| Some(colour_of(found[row].status)));
    for (number, line) in table.lines().enumerate() {
        print(line);
        let about = found.get(number.wrapping_sub(1)).map(words).unwrap_or_default();
        if !is_wider(WIDE) && !about.is_empty() {
            let width = screen.width.unwrap_or(WIDE).saturating_sub(INDENT.len());
            print(&screen.paint(&format!("{INDENT}{}", fit(about, width)), Colour::Faint));
        }
    }
    if found.len() == limit {
        print(&format!("the newest {limit}; --limit shows more"));
    }
}
