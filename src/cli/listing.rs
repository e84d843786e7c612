//! What all lists have: a limit, a total, and counts by group.

use std::collections::HashMap;

use clap::{Args, ValueEnum};
use console::Style;
use jiff::Timestamp;
use serde_json::json;

use super::output::{Column, Table, print, print_err, width};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Maximum number of entries.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// List all entries.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Count entries by this field instead of listing them.
    #[arg(long, value_enum, value_name = "FIELD")]
    pub(super) group_by: Option<GroupBy>,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum GroupBy {
    /// Kind of error; for messages that could not be read, the kind of reason.
    Error,
    /// Route.
    Route,
    /// Event type.
    Type,
    /// Source queue.
    Queue,
    /// Domain of the recipient's address.
    Domain,
}

/// Prints how many of `total` entries were listed, to standard error: standard output has the entries alone.
/// Where all were listed, only people want to read it.
pub(super) fn print_total(shown: usize, total: &str, is_table: bool) {
    if total != shown.to_string() {
        print_err(&format!("{shown} of {total}; --limit or --all lists more"));
    } else if is_table {
        print_err(&format!("{shown} of {shown}"));
    }
}

impl ListArgs {
    /// Number of entries to list; a limit of 0 means all.
    pub(super) fn limit(&self) -> usize {
        if self.all || self.limit == 0 { usize::MAX } else { self.limit }
    }

    /// Prints how many of all entries were listed.
    pub(super) fn print_total(&self, shown: usize, total: usize) {
        print_total(shown, &total.to_string(), !self.json);
    }

    /// Prints a count for each value, the most frequent first, with the oldest and newest time.
    pub(super) fn print_groups(&self, entries: impl Iterator<Item = (String, Timestamp)>) {
        let groups = group(entries);
        let name = self.group_by.and_then(|by| Some(by.to_possible_value()?.get_name().to_owned()));
        let name = name.unwrap_or_default();
        if self.json {
            for (value, group) in groups {
                let Group { count, oldest, newest } = group;
                let line = json!({
                    name.as_str(): value, "count": count, "oldest": oldest, "newest": newest,
                });
                print(&line.to_string());
            }
            return;
        }
        let columns = [
            Column::Number("COUNT"),
            Column::Whole("OLDEST (UTC)"),
            Column::Whole("NEWEST (UTC)"),
            Column::Text("VALUE"),
        ];
        let mut table = Table::new(&columns, width());
        let time = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        for (value, group) in &groups {
            let value = if value.is_empty() { "-" } else { value };
            let cells = [&group.count.to_string(), &time(group.oldest), &time(group.newest), value];
            table.add(&cells, Style::new());
        }
        table.print();
        let total: usize = groups.iter().map(|(_, group)| group.count).sum();
        let groups = match groups.len() {
            1 => "1 group".to_owned(),
            count => format!("{count} groups"),
        };
        print_err(&format!("{total} in {groups} by {name}"));
    }
}

struct Group {
    count: usize,
    oldest: Timestamp,
    newest: Timestamp,
}

fn group(entries: impl Iterator<Item = (String, Timestamp)>) -> Vec<(String, Group)> {
    let mut groups: HashMap<String, Group> = HashMap::new();
    for (value, at) in entries {
        let group = groups.entry(value).or_insert(Group { count: 0, oldest: at, newest: at });
        group.count += 1;
        group.oldest = group.oldest.min(at);
        group.newest = group.newest.max(at);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(a, one), (b, other)| other.count.cmp(&one.count).then_with(|| a.cmp(b)));
    groups
}

/// The domain of an address; empty for phone numbers and erased recipients.
pub(super) fn domain(recipient: &str) -> String {
    recipient.rsplit_once('@').map_or("", |(_, domain)| domain).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::kind_of_reason;

    #[test]
    fn reasons_of_one_kind_are_one_group() {
        let at = Timestamp::UNIX_EPOCH;
        let reasons = [
            r#"unknown event type "no.such.type""#,
            r#"unknown event type "a \"b\" c""#,
            "not JSON: EOF at line 1 column 20",
            "not JSON: EOF at line 3 column 1",
            r#"unknown event type "x"#,
        ];
        let groups = group(reasons.iter().map(|reason| (kind_of_reason(reason), at)));
        let counts: Vec<_> =
            groups.iter().map(|(value, group)| (value.as_str(), group.count)).collect();
        assert_eq!(counts, [("unknown event type …", 3), ("not JSON: EOF at line N column N", 2)]);
    }
}
