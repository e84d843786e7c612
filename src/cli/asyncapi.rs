//! `usher asyncapi`: the contract for publishers, made from the routes and samples in use.

use std::{path::Path, process::ExitCode};

use super::output::print;
use crate::{app::configuration, contract, failure::Failure, logging};

pub(super) fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let loaded = configuration::load(config)?;
    logging::init_quiet(loaded.settings.log_format)?;
    print(contract::asyncapi(&loaded.routing, &loaded.files)?.trim_end());
    Ok(ExitCode::SUCCESS)
}
