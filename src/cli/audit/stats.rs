//! `usher audit stats`: numbers and small charts.

use std::{cmp::Reverse, collections::BTreeMap, process::ExitCode};

use clap::Args;
use console::Style;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::AuditCli;
use crate::{
    audit::{
        BounceKind, ReceiptStatus,
        store::{
            grouped::CountBy,
            receipts::ReceiptCount,
            search::Filter,
            statistics::{Group, Outcomes, STEPS, Stats},
        },
    },
    cli::{
        embedded::EmbeddedArgs,
        output::{Column, Line, Table, bar, faint, fit, paint, print, width},
        time::past,
    },
    failure::Failure,
    text::one_line,
};

/// Longest period that is counted by the hour; longer ones are counted by the day.
const BY_HOUR: SignedDuration = SignedDuration::from_hours(48);
/// Widest bar, in characters.
const WIDEST_BAR: usize = 60;
/// Characters beside a bar.
const BESIDE_BAR: usize = 46;
/// Kinds of errors that are listed.
const MAX_ERRORS: usize = 10;
/// Routes, domains and relays for which receipts are listed, of each.
const MAX_RECEIPTS: usize = 5;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// Beginning of the period: a time, or a duration before now.
    #[arg(long, value_name = "TIME", value_parser = past, default_value = "7d")]
    since: Timestamp,
    /// End of the period.
    #[arg(long, value_name = "TIME", value_parser = past, default_value = "0s")]
    until: Timestamp,
    /// Count deliveries by this instead.
    #[arg(long, value_enum, value_name = "WHAT")]
    by: Option<CountBy>,
    /// Maximum number of groups.
    #[arg(long, default_value_t = 20, requires = "by")]
    limit: usize,
    /// Print recipients' addresses in full; they are masked otherwise.
    #[arg(long, requires = "by")]
    addresses: bool,
    /// Print one JSON object; with `--by` one per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) source: EmbeddedArgs,
}

impl AuditCli {
    pub(super) async fn stats(&self, args: &StatsArgs) -> Result<ExitCode, Failure> {
        let (since, until) = (args.since, args.until);
        if since >= until {
            return Err(Failure::data("--since is not before --until"));
        }
        let by_hour = until.duration_since(since) <= BY_HOUR;
        let period = Filter { since: Some(since), until: Some(until), ..Filter::default() };
        if let Some(by) = args.by {
            let limit = if args.limit == 0 { usize::MAX } else { args.limit };
            return self.stats_by(&period, by, limit, args.addresses, args.json).await;
        }
        let stats = self.reads.statistics(&period, by_hour).await.map_err(Failure::unavailable)?;
        let receipts = match self.is_embedded {
            true => Vec::new(),
            false => {
                let counts = self.audit.receipt_counts(since, until).await;
                counts.map_err(Failure::unavailable)?
            }
        };
        let outcomes = Outcomes::from_statuses(&stats.statuses);
        if args.json {
            let shown = json!({
                "since": since, "until": until, "deliveries": outcomes.total(),
                "delivery_rate": outcomes.rate(), "stats": stats, "receipts": receipts,
            });
            print(&shown.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        let minute = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M").to_string();
        print(&format!("{} to {} UTC", minute(since), minute(until)));
        if outcomes.total() == 0 {
            print("no deliveries");
        } else {
            print_statistics(&stats, outcomes, by_hour);
        }
        if !receipts.is_empty() {
            print_receipts(&receipts);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_statistics(stats: &Stats, outcomes: Outcomes, by_hour: bool) {
    let rate = rate(outcomes);
    print(&format!("{} deliveries, {rate} of those that ended were delivered\n", outcomes.total()));
    print_statuses(stats);
    heading(if by_hour { "by hour (UTC)" } else { "by day (UTC)" });
    print_chart(&stats.times);
    heading("by type");
    let mut types = stats.types.clone();
    types.sort_by_key(|group| Reverse(Outcomes::from_statuses(&group.statuses).total()));
    print_chart(&types);
    heading("by priority");
    print_chart(&stats.priorities);
    print(faint("  █ delivered   ░ failed, withheld, rejected or under way"));
    print_steps(stats);
    print_errors(stats);
}

fn heading(text: &str) {
    print(Line::from("\n") + faint(text));
}

fn print_statuses(stats: &Stats) {
    let mut statuses: Vec<_> = stats.statuses.iter().collect();
    statuses.sort_by_key(|(_, count)| Reverse(**count));
    for (status, count) in statuses {
        let retried = match status.as_str() {
            "sent" if stats.sent_late > 0 => faint(&format!("  {} after a retry", stats.sent_late)),
            _ => Line::from(""),
        };
        print(Line::from(&format!("  {status:<12}{count:>9}")) + retried);
    }
    if stats.duplicates > 0 {
        let note = faint("  events that were known already");
        print(Line::from(&format!("  {:<12}{:>9}", "duplicate", stats.duplicates)) + note);
    }
}

/// Prints a line for each group: name, count, delivery rate, and a bar of delivered and other deliveries.
fn print_chart(groups: &[Group]) {
    let outcomes: Vec<Outcomes> =
        groups.iter().map(|group| Outcomes::from_statuses(&group.statuses)).collect();
    let longest = outcomes.iter().map(|outcomes| outcomes.total()).max().unwrap_or_default();
    let width = width().unwrap_or(80).saturating_sub(BESIDE_BAR).clamp(8, WIDEST_BAR);
    // Each bar is as long as there were deliveries; the share stands beside it.
    print(faint(&format!("  {:<26}{:>7}{:>8}  as many as the most", "", "count", "share")));
    for (group, outcomes) in groups.iter().zip(outcomes) {
        let name = if group.name.is_empty() { "(no event)" } else { &group.name };
        let delivered = bar(outcomes.delivered, longest, width);
        let others = outcomes.undelivered + outcomes.others;
        let mut bars = paint(&delivered, &Style::new().green());
        if others > 0 {
            // Another character, for terminals without colours.
            let cells = (others as f64 / longest as f64 * width as f64).round().max(1.0) as usize;
            let room = width.saturating_sub(delivered.chars().count()).max(1);
            bars = bars + paint(&"░".repeat(cells.min(room)), &Style::new().red());
        }
        let (name, count, rate) = (fit(name, 25), outcomes.total(), rate(outcomes));
        print(Line::from(&format!("  {name:<26}{count:>7}{rate:>8}  ")) + bars);
    }
}

fn print_steps(stats: &Stats) {
    if stats.steps.is_empty() {
        return;
    }
    heading("milliseconds of sent deliveries");
    let columns = [
        Column::Whole("  step"),
        Column::Whole("from … to …"),
        Column::Number("mean"),
        Column::Number("median"),
        Column::Number("95 %"),
        Column::Number("99 %"),
        Column::Number("max"),
    ];
    let meaning = |step: &str| match step {
        "queued" => "published to received",
        "claim" => "received to connection and claim",
        "render" => "rendering",
        "send" => "first command to last reply",
        _ => "event to last reply",
    };
    let mut table = Table::new(&columns, width());
    for (name, step) in STEPS.iter().filter_map(|name| Some((name, stats.steps.get(*name)?))) {
        let numbers = [step.mean, step.p50, step.p95, step.p99, step.max];
        let numbers = numbers.map(|ms| format!("{ms:.1}"));
        let mut cells = vec![format!("  {name}"), meaning(name).to_owned()];
        cells.extend(numbers);
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        table.add(&cells, Style::new());
    }
    print(table.header());
    table.rows().iter().for_each(print);
}

fn print_errors(stats: &Stats) {
    if stats.errors.is_empty() {
        return;
    }
    heading("errors");
    for error in stats.errors.iter().take(MAX_ERRORS) {
        let code = error.code.map(|code| format!(" ({code})")).unwrap_or_default();
        print(&format!("  {:>7}  {}{code}", error.count, one_line(&error.kind)));
    }
    if stats.errors.len() > MAX_ERRORS {
        print(&format!("  and {} other kinds", stats.errors.len() - MAX_ERRORS));
    }
}

/// Prints how many receipts of each status came in, in all and by each property, the worst first.
fn print_receipts(receipts: &[ReceiptCount]) {
    heading("receipts that came in");
    let columns = [
        Column::Text("  "),
        Column::Number("delivered"),
        Column::Number("hard"),
        Column::Number("soft"),
        Column::Number("blocked"),
        Column::Number("complained"),
    ];
    let mut table = Table::new(&columns, width());
    let mut add = |name: &str, counts: &[i64; 5]| {
        let counts = counts.map(|count| count.to_string());
        let cells: Vec<&str> =
            [name].into_iter().chain(counts.iter().map(String::as_str)).collect();
        table.add(&cells, Style::new());
    };
    let of_all = grouped(receipts, |_| Some(""));
    of_all.iter().for_each(|(_, counts)| add("  all", counts));
    type Property = fn(&ReceiptCount) -> Option<&str>;
    let properties: [(&str, Property); 3] = [
        ("route", |it| it.route.as_deref()),
        ("domain", |it| it.domain.as_deref()),
        ("relay", |it| it.relay.as_deref()),
    ];
    for (property, of) in properties {
        for (name, counts) in grouped(receipts, of).iter().take(MAX_RECEIPTS) {
            add(&format!("  {property} {}", fit(name, 40)), counts);
        }
    }
    print(table.header());
    table.rows().iter().for_each(print);
}

/// Delivered, bounced hard, soft and blocked, and complained, by a property; most bounces and complaints first.
fn grouped<'r>(
    receipts: &'r [ReceiptCount],
    property: impl Fn(&'r ReceiptCount) -> Option<&'r str>,
) -> Vec<(&'r str, [i64; 5])> {
    let mut groups: BTreeMap<&str, [i64; 5]> = BTreeMap::new();
    for one in receipts {
        let Some(name) = property(one) else { continue };
        let column = match (one.status, one.bounce) {
            (ReceiptStatus::Delivered, _) => 0,
            (_, Some(BounceKind::Hard)) => 1,
            (_, Some(BounceKind::Soft)) => 2,
            (_, Some(BounceKind::Blocked)) => 3,
            _ => 4,
        };
        groups.entry(name).or_default()[column] += one.count;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, counts)| Reverse(counts[1..].iter().sum::<i64>()));
    groups
}

/// Never 100 % where something is missing.
pub(super) fn rate(outcomes: Outcomes) -> String {
    match outcomes.rate() {
        None => "-".to_owned(),
        Some(rate) if rate < 100.0 => format!("{:.1} %", rate.min(99.9)),
        Some(_) => "100 %".to_owned(),
    }
}
