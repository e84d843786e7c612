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
        Suppression, SuppressionReason,
        store::{MongoAudit, actions::Action},
    },
    channel::sms,
    failure::Failure,
    logging,
    metrics::Metrics,
    routing::{ChannelKind, Identity},
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

struct SuppressionsCli {
    audit: MongoAudit,
    identity: Identity,
}

pub(super) async fn run(
    config: Option<&Path>,
    command: SuppressionsCommand,
) -> Result<ExitCode, Failure> {
    let settings = configuration::settings(config)?;
    logging::init_quiet(settings.log_format)?;
    let audit =
        configuration::open_audit(&settings, Metrics::default(), &Supervisor::default()).await?;
    let cli = SuppressionsCli { audit, identity: Identity::new(settings.pepper.expose()) };
    match command {
        SuppressionsCommand::List { json: false } => cli.list().await?,
        SuppressionsCommand::List { json: true } | SuppressionsCommand::Export => {
            cli.active().await?.iter().try_for_each(print_json)?;
        }
        SuppressionsCommand::Show { address } => return cli.show(&address).await,
        SuppressionsCommand::Add(args) => {
            let entries = args.addresses.iter().map(|address| cli.entry(address, &args.why.reason));
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            let entries = entries.into_iter().map(|one| Suppression { until: args.until, ..one });
            cli.put("suppress", entries.collect(), &args.why).await?;
        }
        SuppressionsCommand::Remove(args) => cli.remove(&args).await?,
        SuppressionsCommand::Import(args) => {
            let text = read_input(&args.file)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let entries = lines.map(|line| match line.starts_with('{') {
                true => {
                    serde_json::from_str(line).map_err(|error| Failure::data(error.to_string()))
                }
                false => cli.entry(line, &args.why.reason),
            });
            // A fault in one line is reported before any line is stored.
            cli.put("suppress", entries.collect::<Result<_, _>>()?, &args.why).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl SuppressionsCli {
    async fn active(&self) -> Result<Vec<Suppression>, Failure> {
        let now = Timestamp::now();
        let found = self.audit.suppressions_since(Timestamp::UNIX_EPOCH).await;
        let mut found = found.map_err(Failure::unavailable)?;
        found.retain(|one| one.is_active(now));
        found.sort_by_key(|one| one.since);
        Ok(found)
    }

    async fn list(&self) -> Result<(), Failure> {
        let active = self.active().await?;
        if active.is_empty() {
            print("nobody is suppressed");
        }
        active.iter().for_each(|one| print(&line(one)));
        Ok(())
    }

    async fn show(&self, address: &str) -> Result<ExitCode, Failure> {
        let found = self.audit.suppression(&self.id(address)?).await;
        match found.map_err(Failure::unavailable)? {
            Some(entry) if entry.is_active(Timestamp::now()) => {
                print(&line(&entry));
                Ok(ExitCode::SUCCESS)
            }
            _ => Err(Failure::data("this address is not suppressed")),
        }
    }

    async fn remove(&self, args: &RemoveArgs) -> Result<(), Failure> {
        let now = Timestamp::now();
        let mut entries = Vec::new();
        for address in &args.addresses {
            let found = self.audit.suppression(&self.id(address)?).await;
            match found.map_err(Failure::unavailable)?.filter(|one| one.is_active(now)) {
                Some(entry) => {
                    entries.push(Suppression { until: Some(now), changed_at: now, ..entry });
                }
                None => {
                    return Err(Failure::data("an address is not suppressed; nothing was done"));
                }
            }
        }
        self.put("unsuppress", entries, &args.why).await
    }

    async fn put(
        &self,
        action: &'static str,
        entries: Vec<Suppression>,
        why: &WhyArgs,
    ) -> Result<(), Failure> {
        let by = why.by.name()?;
        for entry in &entries {
            let (by, target) = (by.clone(), entry.recipient_hash.clone());
            let action = Action { by, action, target, reason: why.reason.clone() };
            self.audit.record_action(&action).await.map_err(Failure::unavailable)?;
            let entry = Suppression { changed_at: Timestamp::now(), ..entry.clone() };
            self.audit.put_suppression(&entry).await.map_err(Failure::unavailable)?;
        }
        let count = entries.len();
        let plural = if count == 1 { "y" } else { "ies" };
        print(&format!("{count} entr{plural} changed"));
        Ok(())
    }

    fn id(&self, address: &str) -> Result<String, Failure> {
        let (channel, address) = channel(address)?;
        Ok(Suppression::id(channel, &self.identity.recipient_hash(&address)))
    }

    fn entry(&self, address: &str, reason: &str) -> Result<Suppression, Failure> {
        let (channel, address) = channel(address)?;
        let (hash, now) = (self.identity.recipient_hash(&address), Timestamp::now());
        Ok(Suppression {
            id: Suppression::id(channel, &hash),
            channel,
            recipient_hash: hash,
            reason: SuppressionReason::Manual,
            note: reason.to_owned(),
            delivery_id: None,
            since: now,
            until: None,
            changed_at: now,
        })
    }
}

fn channel(address: &str) -> Result<(ChannelKind, String), Failure> {
    let address = address.trim();
    if address.contains('@') {
        return Ok((ChannelKind::Email, address.to_owned()));
    }
    let number: String = address.chars().filter(|c| *c == '+' || c.is_ascii_digit()).collect();
    match sms::check_recipient(&number) {
        Ok(()) => Ok((ChannelKind::Sms, number)),
        Err(_) => Err(Failure::data("neither a mail address nor a phone number in E.164 form")),
    }
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
