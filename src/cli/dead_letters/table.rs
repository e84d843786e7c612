//! What lies on a shelf, as a table.

use std::io::IsTerminal;

use crate::{audit::Record, broker::DeliveryHeaders, cli::print};

/// When, which, what, how often tried, to whom, the kind of error, why.
const COLUMNS: [&str; 7] = ["AT", "DELIVERY", "TYPE", "TRY", "RECIPIENT", "ERROR", "WHY"];

pub(super) type Row = [String; COLUMNS.len()];

pub(super) fn of_record(record: &Record) -> Row {
    let (kind, why) = match &record.error {
        Some(error) => (error.kind.as_str(), error.message.as_str()),
        None => ("", ""),
    };
    [
        &record.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        record.delivery_id.as_str(),
        &record.event.kind,
        &record.attempt.to_string(),
        &record.recipient,
        kind,
        why,
    ]
    .map(visible)
}

/// A message that never came through usher.
pub(super) fn of_headers(delivery_headers: &DeliveryHeaders) -> Row {
    ["", delivery_headers.delivery_id.as_str(), "", "", "", "unroutable", &delivery_headers.reason]
        .map(visible)
}

pub(super) fn print_table(rows: &[Row]) {
    let header = std::io::stdout().is_terminal().then(|| COLUMNS.map(ToOwned::to_owned));
    let rows: Vec<&Row> = header.iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let shown = if cell.is_empty() { "-" } else { cell };
            format!("{shown:<width$}")
        });
        print(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A text of upstream's or of a server's in one line: whatever stands in it can't steer a terminal.
pub(super) fn visible(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn nothing_in_an_event_steers_a_terminal() {
        assert_eq!(visible("a\u{1b}[31mb\r\nc\u{9b}2J"), "a [31mb  c 2J");
    }
}
