//! One file for each subcommand, and the exit codes (sysexits.h).

mod asyncapi;
mod audit;
mod build;
mod check;
mod demo;
mod gallery;
mod healthcheck;
mod load;
mod openapi;
mod publish;
mod render;
mod run;
mod scheduled;
mod shelf;
mod templates;

use std::process::ExitCode;

use crate::{
    broker::amqp::Shelf,
    cli::{Cli, Command},
    telemetry,
};

/// EX_DATAERR: the input was wrong.
pub const EXIT_DATA: u8 = 65;
/// EX_UNAVAILABLE: a service can't be reached.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// EX_SOFTWARE: anything else that went wrong.
pub const EXIT_SOFTWARE: u8 = 70;
/// EX_CONFIG: the settings, routes or templates are wrong.
pub const EXIT_CONFIG: u8 = 78;

/// A failure that knows its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    fn config(text: impl Into<String>) -> Self {
        Self::new(EXIT_CONFIG, anyhow::anyhow!(text.into()))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(EXIT_SOFTWARE, error)
    }
}

/// The process could not even begin.
pub fn failed_to_start(error: &std::io::Error) -> ExitCode {
    say_err(&format!("usher: starting: {error}"));
    ExitCode::from(EXIT_SOFTWARE)
}

/// Runs a command and says how it ended.
pub async fn dispatch(cli: Cli) -> ExitCode {
    let config = cli.config.as_deref();
    let ended = match cli.command {
        Command::Run(args) => run::run(config, args).await,
        Command::Demo(args) => demo::demo(config, args).await,
        Command::Check(args) => check::check(config, &args).await,
        Command::Render(args) => render::render(config, &args).await,
        Command::Publish(args) => publish::publish(config, &args).await,
        Command::DeadLetters(command) => shelf::shelf(config, Shelf::Dead, command).await,
        Command::Poison(command) => shelf::shelf(config, Shelf::Poison, command).await,
        Command::Parked(command) => shelf::shelf(config, Shelf::Parked, command).await,
        Command::Scheduled(command) => scheduled::scheduled(config, command).await,
        Command::Audit(command) => audit::audit(config, command).await,
        Command::Templates(command) => templates::templates(config, command).await,
        Command::Asyncapi => asyncapi::asyncapi(config),
        Command::Openapi => openapi::openapi(),
        Command::Healthcheck => healthcheck::healthcheck(config).await,
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            say_err(&format!("usher: {failure}"));
            ExitCode::from(failure.code)
        }
    }
}

/// To standard output; a reader that has left is no failure.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// To standard error.
pub(crate) fn say_err(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Logging for commands other than `run`: warnings only, so that output stays readable.
pub(crate) fn quiet_logs(settings: &crate::config::Settings) {
    telemetry::init(settings.log_format, "warn");
}
