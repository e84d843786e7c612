//! `usher asyncapi`: the contract for publishers, as the routes and samples in use have it.

use std::{path::Path, process::ExitCode};

use super::print;
use crate::{app::load, contract, failure::Failure, logging};

pub(crate) fn asyncapi(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    logging::init_quiet(loaded.settings.log_format);
    print(contract::asyncapi(&loaded.routing, &loaded.files)?.trim_end());
    Ok(ExitCode::SUCCESS)
}
