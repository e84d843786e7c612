//! `usher run`: the daemon, on its services or on one SQLite file.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;

use crate::{
    app::{self, configuration, shutdown},
    failure::Failure,
    logging,
    supervisor::Supervisor,
};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Folder for the embedded mode: one SQLite file instead of services, events from standard input, mail as .eml files.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "usher-data")]
    embedded: Option<PathBuf>,
    /// File to read events from instead of standard input (embedded mode).
    #[arg(long, value_name = "FILE", requires = "embedded")]
    events: Option<PathBuf>,
}

pub(super) async fn run(config: Option<&Path>, args: RunArgs) -> Result<ExitCode, Failure> {
    let loaded = configuration::load(config)?;
    let _log = logging::init_daemon(&loaded.settings)?;
    if let Some(file) = config {
        tracing::info!(file = %file.display(), "settings file read");
    }
    for warning in &loaded.warnings {
        tracing::warn!(setting = %warning.setting, "{}", warning.reason);
    }
    let supervisor = Supervisor::default();
    let stop = shutdown::on_signal(&supervisor).context("listening for signals")?;
    match args.embedded {
        Some(folder) => {
            let events = args.events.as_deref();
            app::embedded::run(loaded, &folder, events, supervisor, stop).await
        }
        None => app::run(loaded, config, supervisor, stop).await,
    }
}
