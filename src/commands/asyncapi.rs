//! `usher asyncapi`: the contract for publishers, as the routes and samples in use have it.

use std::{path::Path, process::ExitCode};

use super::{Failure, load, quiet_logs, say};
use crate::contract;

pub(super) fn asyncapi(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    quiet_logs(&loaded.settings);
    say(contract::asyncapi(&loaded.catalog, &loaded.files)?.trim_end());
    Ok(ExitCode::SUCCESS)
}
