//! `usher audit verify`: compares the records with their chains and with what was signed about them.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{AuditCli, checkpoint_file::Unread};
use crate::{
    app::configuration,
    audit::{
        Status,
        store::chain::{Finding, FindingKind, LogReport, NotCovered, Notes, PublicKeys, Report},
    },
    cli::{
        output::{faint, paint, print, progress, status_style},
        time::past,
    },
    config::Settings,
    failure::{EXIT_DATA, Failure},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Only records since TIME; each of them has to be in a chain.
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
    /// File of checkpoints (`CHECKPOINT_FILE`) that MongoDB's administrators could not change; may be given several times.
    #[arg(long, value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Ed25519 public key in PEM; may be given several times. Default: that of `CHECKPOINT_KEY`.
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// Write the result as metrics of Prometheus into FILE, for the textfile collector of `node_exporter`.
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl AuditCli {
    /// The exit code is 1 if something does not fit.
    pub(super) async fn verify(&self, args: &VerifyArgs) -> Result<ExitCode, Failure> {
        let keys = public_keys(&args.public_key, &self.settings)?;
        let mut outside = Notes::default();
        let mut unread = Unread::default();
        for path in &args.checkpoints {
            unread
                .read(path, &keys, &mut outside)
                .with_context(|| path.display().to_string())
                .map_err(|error| Failure::new(EXIT_DATA, error))?;
        }
        let total = self.audit.count_chained(args.since).await.map_err(Failure::unavailable)?;
        let bar = progress("verifying", total);
        let report = self.audit.verify(&keys, args.since, &outside, &|| bar.inc(1)).await;
        bar.finish_and_clear();
        let report = report.map_err(Failure::unavailable)?;
        let is_whole = report.is_whole() && unread.unsigned == 0;
        if let Some(path) = &args.textfile {
            write_metrics(path, &report, is_whole)
                .with_context(|| path.display().to_string())
                .map_err(|error| Failure::new(EXIT_DATA, error))?;
        }
        if args.json {
            let shown = json!({
                "whole": is_whole, "since": report.since, "logs": report.logs,
                "not_covered": report.not_covered,
                "actions_not_covered": report.actions_not_covered,
                "unsigned_outside": unread.unsigned, "cut_short_outside": unread.cut_short,
            });
            print(&shown.to_string());
        } else {
            print_report(&report, &unread);
            print(if is_whole { "whole" } else { "NOT WHOLE" });
        }
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn public_keys(files: &[PathBuf], settings: &Settings) -> Result<PublicKeys, Failure> {
    let mut keys = PublicKeys::default();
    for path in files {
        let pem = std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let pem = pem.map_err(|error| Failure::new(EXIT_DATA, error))?;
        keys.add_pem(&pem)
            .map_err(|reason| Failure::data(format!("{}: {reason}", path.display())))?;
    }
    if keys.is_empty() {
        let signer = configuration::signer(settings).map_err(Failure::config)?;
        let unset = "--public-key is needed, because CHECKPOINT_KEY is not set";
        keys.add(&signer.ok_or_else(|| Failure::config(unset))?);
    }
    Ok(keys)
}

/// In one step, so that nobody reads half of it. Whoever collects it is another user.
fn write_metrics(path: &Path, report: &Report, is_whole: bool) -> std::io::Result<()> {
    let records: u64 = report.logs.iter().map(|log| log.records).sum();
    let not_covered = report.not_covered.before
        + report.not_covered.later
        + report.actions_not_covered.before
        + report.actions_not_covered.later;
    let now = Timestamp::now().as_second();
    let mut text = String::new();
    for (name, help, value) in [
        ("whole", "Whether usher audit verify found the audit whole", i64::from(is_whole)),
        ("verified_time_seconds", "When usher audit verify ended, since 1970", now),
        ("verified_records", "Records and actions that were verified", saturated(records)),
        ("not_covered_records", "Records and actions that are in no chain", saturated(not_covered)),
    ] {
        let name = format!("usher_audit_{name}");
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let unfinished = folder.join(name);
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}

fn saturated(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn print_report(report: &Report, unread: &Unread) {
    for log in &report.logs {
        print_log(log);
    }
    let Unread { unsigned, cut_short } = unread;
    if *cut_short > 0 {
        print(&format!("{cut_short} lines of --checkpoints were cut short, and say nothing"));
    }
    if *unsigned > 0 {
        let line = format!("{unsigned} lines of --checkpoints are not signed by a known key");
        print(paint(&line, &status_style(Status::Failed)));
    }
    for (what, NotCovered { before, later, ids }) in
        [("records", &report.not_covered), ("actions", &report.actions_not_covered)]
    {
        if *before > 0 {
            print(&format!("{before} earlier {what} are not covered by a chain"));
        }
        if *later > 0 {
            let since = if report.since.is_some() { "--since" } else { "the first log was opened" };
            print(&format!("{later} {what} since {since} are in no chain: {}", ids.join(", ")));
        }
    }
}

fn print_log(log: &LogReport) {
    let LogReport { records, voids, erased, last, .. } = log;
    let result = match (log.is_whole(), last) {
        (true, 0) => paint("empty", &status_style(Status::Sent)),
        (true, _) => paint("whole", &status_style(Status::Sent)),
        (false, _) => paint("NOT WHOLE", &status_style(Status::Failed)),
    };
    print(faint(&format!("{}  ", log.log)) + result);
    let mut facts = vec![format!("{records} records to number {last}")];
    if *voids > 0 {
        facts.push(format!("{voids} voids"));
    }
    if *erased > 0 {
        facts.push(format!("{erased} erased"));
    }
    if log.is_closed {
        facts.push("closed".to_owned());
    }
    if log.unsettled > 0 {
        facts.push(format!("{} not written yet", log.unsettled));
    }
    if log.covered_to < *last {
        let since = log.covered_at.map(|at| format!(" ({at})")).unwrap_or_default();
        facts.push(format!("not covered since number {}{since}", log.covered_to));
    }
    print(&format!("    {}", facts.join(", ")));
    for finding in &log.findings {
        print(&format!("    {}", describe(finding)));
    }
    if log.more_findings > 0 {
        print(&format!("    and {} more", log.more_findings));
    }
}

fn describe(finding: &Finding) -> String {
    let Finding { kind, from, to, reason, record } = finding;
    let place = if from == to { format!("{from}") } else { format!("{from}\u{2013}{to}") };
    let what = match kind {
        FindingKind::Altered => "altered at",
        FindingKind::Missing => "missing, and not by rule:",
        FindingKind::Purged => "purged by rule:",
        FindingKind::Forked => "forked at",
        FindingKind::AfterClose => "written after the log was closed:",
        FindingKind::Unopened => "opened by nobody:",
        FindingKind::Unsigned => "a checkpoint is not signed by a known key: at",
    };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let record = record.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    format!("{what} {place}{reason}{record}")
}
