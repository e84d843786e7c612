//! `usher openapi`: the document of the HTTP API.

use std::process::ExitCode;

use super::output::print;
use crate::{api, failure::Failure};

pub(super) fn run() -> Result<ExitCode, Failure> {
    print(api::openapi_yaml()?.trim_end());
    Ok(ExitCode::SUCCESS)
}
