//! The binary: parse, dispatch, exit code.

use clap::Parser;
use usher::{cli::Cli, commands};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    commands::dispatch(Cli::parse()).await
}
