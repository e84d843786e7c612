//! `usher run`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use crate::{
    app::{self, load, shutdown},
    failure::Failure,
    logging,
};

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run on one file in this folder instead of services: events are NDJSON, mail is written as .eml.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "usher-data")]
    pub embedded: Option<PathBuf>,
    /// With --embedded: read events from this file instead of standard input.
    #[arg(long, value_name = "FILE", requires = "embedded")]
    pub events: Option<PathBuf>,
}

pub(super) async fn run(config: Option<&Path>, args: RunArgs) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    logging::init(loaded.settings.log_format, "info");
    for warning in &loaded.warnings {
        tracing::warn!(setting = warning.setting, "{}", warning.reason);
    }
    let stop = shutdown::on_signal().context("listening to signals")?;
    match args.embedded {
        Some(folder) => app::embedded::run(loaded, &folder, args.events.as_deref(), stop).await,
        None => app::run(loaded, stop).await,
    }
}
