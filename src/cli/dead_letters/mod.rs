//! `usher dead-letters`, `poison` and `parked`: messages in the dead-letter queues.
//!
//! ```text
//! list         list, show: read the audit and the queue
//! selection    replay, drop: select, confirm, carry out
//!   correction   the corrected event, checked like a new one
//!     editor, field_changes
//! ```
//!
//! Whether and how something is done is in `delivery::dead_letters`.

mod correction;
mod editor;
mod field_changes;
mod list;
mod selection;

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use self::{
    correction::{Correction, CorrectionArgs},
    selection::Decision,
};
use super::{
    decision::DecisionArgs, embedded::EmbeddedArgs, listing::ListArgs, output::progress, time::past,
};
use crate::{
    app::configuration::{self, Configuration},
    audit::{
        ReadAudit,
        store::{
            MongoAudit,
            actions::{DeadLetter, DeadLetterFilter},
        },
    },
    broker::{
        Message,
        amqp::{AckHandle, DeadLetterQueue, DeadLetterReader},
    },
    delivery::dead_letters::{DeadLetters, Outcome, status_in},
    failure::Failure,
    routing::{DeliveryId, Identity},
};

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List deliveries, newest first, or count them.
    List {
        #[command(flatten)]
        filter: DeadLettersFilter,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        source: EmbeddedArgs,
    },
    /// Show every record of one delivery, or its event.
    Show {
        /// Delivery id, or its beginning.
        delivery: String,
        /// Print the event as it is in the queue.
        #[arg(long, conflicts_with_all = ["json", "embedded"])]
        event: bool,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: EmbeddedArgs,
    },
    /// Replay messages, as they are or corrected; mail that was sent is refused.
    #[command(visible_alias = "resend")]
    Replay {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        correction: CorrectionArgs,
    },
    /// Remove messages for good.
    #[command(visible_alias = "dismiss")]
    Drop {
        #[command(flatten)]
        selection: SelectionArgs,
        /// What became of parked mail; its record follows.
        #[arg(long, value_enum)]
        outcome: Option<Outcome>,
    },
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(super) struct DeadLettersFilter {
    /// Only deliveries of this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only deliveries for this event type, as published.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only deliveries with this kind of error, such as refused or missing_variable, or as --group-by error names it.
    #[arg(long, value_name = "KIND")]
    error: Option<String>,
    /// Only deliveries to this address.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only entries since TIME: 2030-01-31T20:00:00Z, 2030-01-31 (UTC), or a duration before now such as 7d.
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
    /// Only entries older than TIME.
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Delivery ids, as `list` prints them, or their beginnings; or use filters.
    deliveries: Vec<String>,
    #[command(flatten)]
    filter: DeadLettersFilter,
    #[command(flatten)]
    decision: DecisionArgs,
}

struct DeadLettersCli {
    queue: DeadLetterQueue,
    audit: Arc<MongoAudit>,
    /// That of the embedded mode where it was asked for.
    reads: Arc<dyn ReadAudit>,
    is_embedded: bool,
    loaded: Configuration,
    identity: Identity,
}

pub(super) async fn run(
    config: Option<&Path>,
    queue: DeadLetterQueue,
    command: DeadLettersCommand,
) -> Result<ExitCode, Failure> {
    let (loaded, audit) = configuration::load_with_audit(config).await?;
    let identity = Identity::new(loaded.settings.pepper.expose());
    let embedded = match &command {
        DeadLettersCommand::List { source, .. } | DeadLettersCommand::Show { source, .. } => {
            source.open(&loaded.settings)?
        }
        _ => None,
    };
    let (audit, is_embedded) = (Arc::new(audit), embedded.is_some());
    let reads: Arc<dyn ReadAudit> = match embedded {
        Some(embedded) => embedded.audit,
        None => audit.clone(),
    };
    let cli = DeadLettersCli { queue, audit, reads, is_embedded, loaded, identity };
    match command {
        DeadLettersCommand::List { filter, list, .. } => cli.list(&filter, &list).await,
        DeadLettersCommand::Show { delivery, event: true, .. } => cli.show_event(&delivery).await,
        DeadLettersCommand::Show { delivery, json, .. } => cli.show(&delivery, json).await,
        DeadLettersCommand::Replay { selection, correction } => {
            let correction = Correction::from_args(&correction)?;
            cli.decide(&selection, Decision::Replay, correction.as_ref()).await
        }
        DeadLettersCommand::Drop { selection, outcome } => {
            if outcome.is_some() && queue != DeadLetterQueue::Parked {
                return Err(Failure::data("--outcome is for parked mail"));
            }
            cli.decide(&selection, Decision::Drop(outcome), None).await
        }
    }
}

impl DeadLettersCli {
    /// What decides about the messages in this queue.
    fn handling(&self) -> DeadLetters<'_> {
        let (routing, identity) = (&*self.loaded.routing, &self.identity);
        DeadLetters { queue: self.queue, routing, identity, audit: &self.audit }
    }

    /// The deliveries in this queue, as far as the audit knows, newest first.
    async fn dead_letters(&self, filter: &DeadLettersFilter) -> Result<Vec<DeadLetter>, Failure> {
        let hash = |address: &String| self.identity.recipient_hash(address);
        // Kinds are single words; the database knows nothing of the others.
        let (error, words) = match filter.error.as_deref() {
            Some(words) if words.contains(' ') => (None, Some(words)),
            error => (error, None),
        };
        let filter = DeadLetterFilter {
            status: status_in(self.queue),
            route: filter.route.as_deref(),
            kind: filter.kind.as_deref(),
            error,
            recipient_hash: filter.recipient.as_ref().map(hash),
            since: filter.since,
            until: filter.until,
        };
        let mut letters = self.reads.dead_letters(&filter).await.map_err(Failure::unavailable)?;
        letters.retain(|letter| words.is_none_or(|words| letter.error_group() == words));
        Ok(letters)
    }

    /// Takes the selected messages from the queue. All others go back when `DeadLetterReader` is closed.
    async fn take(
        &self,
        is_selected: impl Fn(&DeliveryId) -> bool,
    ) -> anyhow::Result<(DeadLetterReader, Vec<(Message, AckHandle)>)> {
        let taken = DeadLetterReader::open(&self.loaded.settings.rabbitmq, self.queue).await?;
        let progress = progress("reading the queue", taken.count());
        let mut messages = Vec::new();
        while let Some((message, handle)) = taken.next(&self.identity).await? {
            progress.inc(1);
            let headers = message.delivery_headers.as_ref();
            if headers.is_some_and(|headers| is_selected(&headers.delivery_id)) {
                messages.push((message, handle));
            }
        }
        progress.finish_and_clear();
        Ok((taken, messages))
    }
}
