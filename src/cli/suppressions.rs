//! `usher suppressions`: addresses that get no mail any more.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    decision::ByArgs,
    output::{print, print_json},
    read_input,
    time::from_now,
};
use crate::{
    app::configuration,
    audit::{
        Suppression,
        store::{MongoAudit, suppressions::SuppressionFilter},
    },
    delivery::suppressed::Suppressor,
    failure::Failure,
    logging,
    metrics::Metrics,
    routing::Identity,
    supervisor::Supervisor,
};

#[derive(Debug, Subcommand)]
pub(super) enum SuppressionsCommand {
    /// List the entries that are in force, oldest first.
    List {
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show the entry of an address.
    Show {
        /// Mail address or phone number.
        address: String,
    },
    /// Send no more mail to these addresses.
    Add(AddArgs),
    /// Send mail to these addresses again.
    Remove(RemoveArgs),
    /// Write every entry in force to standard output, one JSON object per line.
    Export,
    /// Add addresses, one per line, or entries as export writes them.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// Mail addresses or phone numbers.
    #[arg(required = true)]
    addresses: Vec<String>,
    /// When it ends: 2030-01-31, or a duration from now such as 30d. Default: never.
    #[arg(long, value_name = "TIME", value_parser = from_now)]
    until: Option<Timestamp>,
    #[command(flatten)]
    why: WhyArgs,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Mail addresses or phone numbers.
    #[arg(required = true)]
    addresses: Vec<String>,
    #[command(flatten)]
    why: WhyArgs,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// File; - is standard input.
    file: PathBuf,
    #[command(flatten)]
    why: WhyArgs,
}

#[derive(Debug, Args)]
struct WhyArgs {
    /// Reason, recorded in the audit.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    by: ByArgs,
}

pub(super) async fn run(
    config: Option<&Path>,
    command: SuppressionsCommand,
) -> Result<ExitCode, Failure> {
    let settings = configuration::settings(config)?;
    logging::init_quiet(settings.log_format)?;
    let audit =
        configuration::open_audit(&settings, Metrics::default(), &Supervisor::default()).await?;
    let identity = Identity::new(settings.pepper.expose());
    let suppressor = Suppressor { audit: &audit, identity: &identity };
    match command {
        SuppressionsCommand::List { json: false } => {
            let active = active(&audit).await?;
            if active.is_empty() {
                print("nobody is suppressed");
            }
            active.iter().for_each(|entry| print(&line(entry)));
        }
        SuppressionsCommand::List { json: true } | SuppressionsCommand::Export => {
            active(&audit).await?.iter().try_for_each(print_json)?;
        }
        SuppressionsCommand::Show { address } => {
            let entry = find(&suppressor, &address).await?;
            print(&line(&entry.ok_or_else(|| Failure::data("this address is not suppressed"))?));
        }
        SuppressionsCommand::Add(args) => {
            let entries = args.addresses.iter();
            let entries = entries.map(|one| suppressor.entry(one, &args.why.reason, args.until));
            let entries = entries.collect::<Result<_, _>>().map_err(Failure::data)?;
            suppress(&suppressor, entries, &args.why).await?;
        }
        SuppressionsCommand::Remove(args) => remove(&suppressor, &args).await?,
        SuppressionsCommand::Import(args) => {
            let text = read_input(&args.file)?;
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            let entries = lines.map(|(number, line)| {
                let entry = match line.trim().strip_prefix('{') {
                    Some(_) => serde_json::from_str(line).map_err(|error| error.to_string()),
                    None => suppressor.entry(line, &args.why.reason, None),
                };
                entry.map_err(|fault| Failure::data(format!("line {number}: {fault}")))
            });
            // A fault in one line is reported before any line is stored.
            suppress(&suppressor, entries.collect::<Result<_, _>>()?, &args.why).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Oldest first.
async fn active(audit: &MongoAudit) -> Result<Vec<Suppression>, Failure> {
    let found = audit.active_suppressions(&SuppressionFilter::default(), (0, 0)).await;
    let (_, mut found) = found.map_err(Failure::unavailable)?;
    found.reverse();
    Ok(found)
}

async fn find(suppressor: &Suppressor<'_>, address: &str) -> Result<Option<Suppression>, Failure> {
    let (_, hash) = suppressor.recipient(address).map_err(Failure::data)?;
    suppressor.find(&hash).await.map_err(Failure::unavailable)
}

async fn suppress(
    suppressor: &Suppressor<'_>,
    entries: Vec<Suppression>,
    why: &WhyArgs,
) -> Result<(), Failure> {
    let (by, given) = (why.by.name()?, entries.len());
    let mut changed = 0;
    for entry in entries {
        let is_new = suppressor.suppress(entry, &by, &why.reason).await;
        changed += usize::from(is_new.map_err(Failure::unavailable)?);
    }
    print(&match given - changed {
        0 => entries_changed(changed),
        known => format!("{}, {known} there already", entries_changed(changed)),
    });
    Ok(())
}

async fn remove(suppressor: &Suppressor<'_>, args: &RemoveArgs) -> Result<(), Failure> {
    let by = args.why.by.name()?;
    let mut entries = Vec::new();
    for address in &args.addresses {
        let entry = find(suppressor, address).await?;
        let nobody = || Failure::data("an address is not suppressed; nothing was done");
        entries.push(entry.ok_or_else(nobody)?);
    }
    let changed = entries.len();
    for entry in entries {
        suppressor.end(entry, &by, &args.why.reason).await.map_err(Failure::unavailable)?;
    }
    print(&entries_changed(changed));
    Ok(())
}

fn entries_changed(count: usize) -> String {
    format!("{count} entr{} changed", if count == 1 { "y" } else { "ies" })
}

fn line(entry: &Suppression) -> String {
    let until = entry.until.map(|until| format!(" until {}", until.strftime("%Y-%m-%d %H:%M:%S")));
    format!(
        "{}  {}  {} {}{}  {}",
        entry.since.strftime("%Y-%m-%d %H:%M:%S"),
        entry.recipient_hash,
        entry.channel.as_str(),
        entry.reason.as_str(),
        until.unwrap_or_default(),
        crate::text::one_line(&entry.note)
    )
}
