//! `usher openapi`: the document of the HTTP API.

use std::process::ExitCode;

use super::{Failure, say};
use crate::http;

pub(super) fn openapi() -> Result<ExitCode, Failure> {
    say(http::openapi_yaml()?.trim_end());
    Ok(ExitCode::SUCCESS)
}
