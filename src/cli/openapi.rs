//! `usher openapi`: the document of the HTTP API.

use std::process::ExitCode;

use super::say;
use crate::{api, failure::Failure};

pub(crate) fn openapi() -> Result<ExitCode, Failure> {
    say(api::openapi_yaml()?.trim_end());
    Ok(ExitCode::SUCCESS)
}
