//! `usher openapi`: the document of the HTTP API.

use std::process::ExitCode;

use super::print;
use crate::{api, failure::Failure};

pub(crate) fn openapi() -> Result<ExitCode, Failure> {
    print(api::openapi_yaml()?.trim_end());
    Ok(ExitCode::SUCCESS)
}
