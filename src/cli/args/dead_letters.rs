//! Arguments of `dead-letters`, `poison` and `parked`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::past;

/// What can be done with messages that lie aside.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List deliveries, newest first.
    List {
        /// Which.
        #[command(flatten)]
        filter: DeadLettersFilter,
        /// At most this many.
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show every record of one delivery.
    Show {
        /// Its id.
        delivery: String,
        /// Print the event itself, as it lies in the queue.
        #[arg(long, conflicts_with = "json")]
        event: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Send messages on their way again, corrected or as they are; refused for what was sent.
    #[command(visible_alias = "resend")]
    Replay {
        /// Which, and why.
        #[command(flatten)]
        choice: DeadLettersSelection,
        /// What is to be corrected.
        #[command(flatten)]
        correction: CorrectionArgs,
    },
    /// Remove messages for good.
    #[command(visible_alias = "dismiss")]
    Drop(DeadLettersSelection),
}

/// Which of the messages that lie aside.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct DeadLettersFilter {
    /// Of this route.
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Of this event type, as published.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// With this kind of error, such as refused or missing_variable.
    #[arg(long, value_name = "KIND")]
    pub error: Option<String>,
    /// To this address.
    #[arg(long, value_name = "ADDRESS")]
    pub recipient: Option<String>,
    /// Of then or later: a time such as 2030-01-31T20:00:00Z, or so long ago, such as 7d or 12h.
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub since: Option<Timestamp>,
    /// Of before then.
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub until: Option<Timestamp>,
}

/// Which messages, and why.
#[derive(Debug, Args)]
pub struct DeadLettersSelection {
    /// Delivery ids, as `list` shows them; or else filters.
    pub deliveries: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub filter: DeadLettersFilter,
    /// Why; recorded in the audit.
    #[arg(long)]
    pub reason: String,
    /// Who does it; recorded in the audit.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Do it; without this, say what would be done, and on a terminal ask.
    #[arg(long)]
    pub yes: bool,
}

/// How an event is corrected before it is sent on its way again.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct CorrectionArgs {
    /// Correct the event in $VISUAL or $EDITOR.
    #[arg(long)]
    pub edit: bool,
    /// Send this event in its place; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub with: Option<PathBuf>,
    /// Set a field: JSON, or else a text; dots lead into objects, null takes it out. Can be repeated.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}
