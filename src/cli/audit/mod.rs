//! `usher audit`: what became of every delivery. Everything but `erase` only looks.

mod csv;
mod erase;
mod export;
mod find;
mod mail;
mod show;
mod stats;

use std::{path::Path, process::ExitCode};

use super::{
    args::{AuditCommand, AuditFilter},
    print,
};
use crate::{
    app::load,
    audit::{
        Record,
        store::{MongoAudit, search::Filter},
    },
    failure::Failure,
    logging,
    routing::Identity,
};

struct AuditCli {
    audit: MongoAudit,
    identity: Identity,
}

pub(super) async fn audit(
    config: Option<&Path>,
    command: AuditCommand,
) -> Result<ExitCode, Failure> {
    // Whoever only looks needs neither routes nor templates.
    let settings = load::settings(config)?;
    logging::init_quiet(settings.log_format);
    let audit = load::open_audit(&settings).await?;
    let cli = AuditCli { audit, identity: Identity::new(settings.pepper.expose()) };
    match command {
        AuditCommand::Find(args) => cli.find(&args).await,
        AuditCommand::Show(args) => cli.show(&args, &load::load(config)?).await,
        AuditCommand::Stats(args) => cli.stats(&args).await,
        AuditCommand::Export(args) => cli.export(&args).await,
        AuditCommand::Erase(args) => cli.erase(&args, &load::load(config)?).await,
    }
}

impl AuditCli {
    fn filter(&self, matcher: &AuditFilter) -> Filter {
        let hash = |address: &String| self.identity.recipient_hash(address);
        Filter {
            booking: matcher.booking.clone(),
            event: matcher.event.clone(),
            recipient_hash: matcher.recipient.as_ref().map(hash),
            kind: matcher.kind.clone(),
            routes: None,
            channel: None,
            statuses: matcher.status.clone(),
            only_final: false,
            since: matcher.since,
            until: matcher.until,
        }
    }
}

/// Who a record is about, as people read it.
fn recipient(record: &Record) -> &str {
    match record.recipient.as_str() {
        "" if record.erased_at.is_some() => crate::redaction::ERASED,
        address => address,
    }
}

/// Why it was not sent, or what it was.
fn words(record: &Record) -> &str {
    match &record.error {
        Some(error) if error.message.is_empty() => &error.kind,
        Some(error) => &error.message,
        None => &record.subject,
    }
}
