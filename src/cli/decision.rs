//! What every command that changes something asks for.

use clap::Args;

#[derive(Debug, Args)]
pub(super) struct DecisionArgs {
    /// Reason, recorded in the audit.
    #[arg(long)]
    pub(super) reason: String,
    /// Person who decides, recorded in the audit.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub(super) by: String,
    /// Do it without asking; otherwise only show what would be done.
    #[arg(long)]
    pub(super) yes: bool,
}

/// Printed where `--yes` is missing.
pub(super) const NOTHING_DONE: &str = "nothing was done; --yes does it";
