//! What became of each event of the demo.

use std::collections::HashMap;

use console::Style;

use super::PublishedEvent;
use crate::{
    audit::{Record, Status},
    cli::output::{Column, Table, print, width},
};

/// Prints one line for each delivery of each event.
pub(super) fn print_outcomes(events: &[PublishedEvent], records: &[Record]) {
    let columns = [
        Column::Text("EVENT"),
        Column::Text("RECIPIENT"),
        Column::Number("ATTEMPTS"),
        Column::Text("OUTCOME"),
    ];
    let mut table = Table::new(&columns, width());
    for event in events {
        let of_event = records.iter().filter(|record| record.event.id == event.event_id);
        let last = last_of_each_delivery(of_event);
        if last.is_empty() {
            table.add(&[&event.title, "", "0", "NO RECORD"], Style::new().red());
        }
        for record in last {
            let attempts = record.attempt.to_string();
            let cells = [&event.title, &record.recipient, &attempts, &outcome(record)];
            table.add(&cells.map(String::as_str), Style::new());
        }
    }
    print(table.header());
    table.rows().iter().for_each(print);
}

/// In the order of the deliveries' first records.
fn last_of_each_delivery<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<&'a Record> {
    let mut last: Vec<&Record> = Vec::new();
    let mut index_of: HashMap<&str, usize> = HashMap::new();
    for record in records {
        let index = *index_of.entry(record.delivery_id.as_str()).or_insert(last.len());
        let order = |record: &Record| (record.attempt, record.is_final);
        match last.get_mut(index) {
            None => last.push(record),
            Some(other) if order(record) >= order(other) => *other = record,
            Some(_) => {}
        }
    }
    last
}

fn outcome(record: &Record) -> String {
    match (&record.error, record.status) {
        (_, Status::Sent) if record.attempt > 1 => {
            format!("sent after {} refusals", record.attempt - 1)
        }
        (Some(error), status) => format!("{}: {}", status.as_str(), error.message),
        (None, status) => status.as_str().to_owned(),
    }
}
