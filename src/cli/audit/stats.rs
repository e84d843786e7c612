//! `usher audit stats`: numbers and small charts.

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{AuditCli, print};
use crate::{
    audit::store::{
        search::Filter,
        statistics::{Group, Outcomes, STEPS, Stats},
    },
    cli::{
        args::StatsArgs,
        output::{Colour, Column, Screen, one_line},
    },
    failure::Failure,
};

/// Up to this long it is counted by the hour.
const BY_HOUR: SignedDuration = SignedDuration::from_hours(48);
/// Widest chart, in characters.
const WIDEST: usize = 60;
/// What stands beside a bar.
const BESIDE_BAR: usize = 46;
/// Errors that are named.
const ERRORS: usize = 10;

impl AuditCli {
    pub(super) async fn stats(&self, args: &StatsArgs) -> Result<ExitCode, Failure> {
        let (since, until) = (args.since, args.until);
        if since >= until {
            return Err(Failure::data("--since is not before --until".to_owned()));
        }
        let by_hour = until.duration_since(since) <= BY_HOUR;
        let within = Filter { since: Some(since), until: Some(until), ..Filter::default() };
        let stats = self.audit.stats(&within, by_hour, None).await.map_err(Failure::unavailable)?;
        if args.json {
            let outcomes = Outcomes::of(&stats.statuses);
            let told = json!({
                "since": since, "until": until, "deliveries": outcomes.all(),
                "delivery_rate": outcomes.rate(), "stats": stats,
            });
            print(&told.to_string());
        } else {
            print_statistics(&stats, since, until, by_hour);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_statistics(stats: &Stats, since: Timestamp, until: Timestamp, by_hour: bool) {
    let screen = Screen::new();
    let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M").to_string();
    let outcomes = Outcomes::of(&stats.statuses);
    print(&format!("{} to {} UTC", time(since), time(until)));
    if outcomes.all() == 0 {
        print("no deliveries");
        return;
    }
    print(&format!(
        "{} deliveries, {} of those that ended delivered\n",
        outcomes.all(),
        rate(outcomes)
    ));
    let mut statuses: Vec<_> = stats.statuses.iter().collect();
    statuses.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (status, count) in statuses {
        let note = match status.as_str() {
            "sent" if stats.sent_late > 0 => {
                format!("  {} of them not at the first attempt", stats.sent_late)
            }
            _ => String::new(),
        };
        print(&format!("  {status:<12}{count:>9}{}", screen.paint(&note, Colour::Faint)));
    }
    if stats.duplicates > 0 {
        let note = screen.paint("  events that told what was known", Colour::Faint);
        print(&format!("  {:<12}{:>9}{note}", "duplicate", stats.duplicates));
    }
    heading(screen, if by_hour { "by hour (UTC)" } else { "by day (UTC)" });
    chart(screen, &stats.times);
    heading(screen, "by type");
    let mut types = stats.types.clone();
    types.sort_by_key(|group| std::cmp::Reverse(Outcomes::of(&group.statuses).all()));
    chart(screen, &types);
    heading(screen, "by priority");
    chart(screen, &stats.priorities);
    let legend = "  █ delivered   ░ not: failed, withheld, rejected or under way";
    print(&screen.paint(legend, Colour::Faint));
    print_steps(screen, stats);
    print_errors(screen, stats);
}

fn heading(screen: Screen, text: &str) {
    print(&format!("\n{}", screen.paint(text, Colour::Faint)));
}

/// A line for each group: what, how many, how many of 100, and a bar of what was delivered, of what
/// was not and of the rest.
fn chart(screen: Screen, groups: &[Group]) {
    let all: Vec<Outcomes> = groups.iter().map(|group| Outcomes::of(&group.statuses)).collect();
    let most = all.iter().map(|outcomes| outcomes.all()).max().unwrap_or_default();
    let width = screen.width.unwrap_or(80).saturating_sub(BESIDE_BAR).clamp(8, WIDEST);
    for (group, outcomes) in groups.iter().zip(all) {
        let name = if group.name.is_empty() { "(no event)" } else { &group.name };
        let failed = outcomes.undelivered + outcomes.others;
        let good = Screen::bar(outcomes.delivered, most, width);
        let mut bar = screen.paint(&good, Colour::Good);
        if failed > 0 {
            // Told apart without colours too.
            let cells = (failed as f64 / most as f64 * width as f64).round().max(1.0) as usize;
            let room = width.saturating_sub(good.chars().count()).max(1);
            bar += &screen.paint(&"░".repeat(cells.min(room)), Colour::Bad);
        }
        print(&format!(
            "  {:<26}{:>7}{:>8}  {bar}",
            crate::cli::output::fit(name, 25),
            outcomes.all(),
            rate(outcomes)
        ));
    }
}

fn print_steps(screen: Screen, stats: &Stats) {
    if stats.steps.is_empty() {
        return;
    }
    heading(screen, "milliseconds for what was sent");
    let columns = [
        Column::whole(""),
        Column::whole(""),
        Column::number("mean"),
        Column::number("half"),
        Column::number("95 %"),
        Column::number("99 %"),
        Column::number("longest"),
    ];
    let meaning = |step: &str| match step {
        "queued" => "published to received",
        "claim" => "waited for a connection",
        "render" => "made the mail",
        "send" => "first command to last reply",
        _ => "event to last reply",
    };
    let rows = STEPS.iter().filter_map(|step| {
        let found = stats.steps.get(*step)?;
        let numbers = [found.mean, found.p50, found.p95, found.p99, found.max];
        let numbers = numbers.map(|ms| format!("{ms:.1}"));
        let names = [format!("  {step}"), meaning(step).to_owned()];
        Some(names.into_iter().chain(numbers).collect())
    });
    print(&screen.table(&columns, &rows.collect::<Vec<_>>(), |_| None));
}

fn print_errors(screen: Screen, stats: &Stats) {
    if stats.errors.is_empty() {
        return;
    }
    heading(screen, "why not, or not yet");
    for error in stats.errors.iter().take(ERRORS) {
        let code = error.code.map(|code| format!(" ({code})")).unwrap_or_default();
        print(&format!("  {:>7}  {}{code}", error.count, one_line(&error.kind)));
    }
    if stats.errors.len() > ERRORS {
        print(&format!("  and {} other kinds", stats.errors.len() - ERRORS));
    }
}

/// Never 100 where something is missing.
fn rate(outcomes: Outcomes) -> String {
    match outcomes.rate() {
        None => "-".to_owned(),
        Some(rate) if rate < 100.0 => format!("{:.1} %", rate.min(99.9)),
        Some(_) => "100 %".to_owned(),
    }
}
