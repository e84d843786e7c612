//! One file for each subcommand, and the exit codes (sysexits.h).

pub mod args;
mod asyncapi;
mod audit;
mod check;
mod dead_letters;
mod demo;
mod gallery;
mod healthcheck;
mod openapi;
mod output;
mod publish;
mod render;
pub mod run;
mod scheduled;
mod templates;

use std::process::ExitCode;

use self::args::{Cli, Command};
use crate::{broker::amqp::DeadLetterQueue, failure::EXIT_SOFTWARE};

/// The process could not even begin.
pub fn failed_to_start(error: &std::io::Error) -> ExitCode {
    print_err(&format!("usher: starting: {error}"));
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
        Command::DeadLetters(command) => {
            dead_letters::run(config, DeadLetterQueue::Dead, command).await
        }
        Command::Poison(command) => {
            dead_letters::run(config, DeadLetterQueue::Poison, command).await
        }
        Command::Parked(command) => {
            dead_letters::run(config, DeadLetterQueue::Parked, command).await
        }
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
            print_err(&format!("usher: {failure}"));
            ExitCode::from(failure.code)
        }
    }
}

/// To standard output; a reader that has left is no failure.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// To standard error.
pub(crate) fn print_err(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
