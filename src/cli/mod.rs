//! The command line: a file or folder for each command, with its arguments and its handler.

mod asyncapi;
mod audit;
mod check;
mod dead_letters;
mod decision;
mod delivery_ids;
mod demo;
mod embedded;
mod gallery;
mod healthcheck;
mod init;
mod listing;
mod openapi;
mod output;
mod publish;
mod receipts;
mod render;
mod run;
mod scheduled;
mod send_test;
mod setup;
mod status;
mod status_events;
mod suppressions;
mod templates;
mod time;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use self::output::print_err;
use crate::{
    app::configuration::Configuration,
    broker::amqp::{AmqpBroker, DeadLetterQueue, Topology},
    failure::{EXIT_DATA, EXIT_SOFTWARE, Failure},
    private_files,
    routing::Identity,
};

/// The command line of usher.
#[derive(Debug, Parser)]
#[command(name = "usher", version, about)]
pub struct Cli {
    /// Settings file (TOML); environment variables override it. Default: usher.toml in the current folder, if it is there.
    #[arg(long, global = true, env = "USHER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print control characters as they are, not as escapes; only into a pipe or a file.
    #[arg(long, global = true)]
    raw: bool,
    #[command(subcommand)]
    command: Command,
}

/// The settings file of the current folder.
const DEFAULT_CONFIG: &str = "usher.toml";

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume events and send their notifications until SIGTERM.
    Run(run::RunArgs),
    /// Show usher at work on sample events, without any service.
    Demo(demo::DemoArgs),
    /// Write a folder with settings, a route and a template of your own to start from.
    Init(init::InitArgs),
    /// Check settings, routes, templates, connections and the SMTP login.
    Check(check::CheckArgs),
    /// Show what works and what waits where, whatever is down.
    Status(status::StatusArgs),
    /// Create indexes, views and validators in MongoDB, so that the daemon's user need not be allowed to.
    Setup,
    /// Render the messages of an event without sending them.
    Render(render::RenderArgs),
    /// Publish events, each confirmed by the broker.
    Publish(publish::PublishArgs),
    /// List, show, replay or drop messages that could not be delivered (`usher.dead`).
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// List, show, replay or drop messages that could not be read (`usher.poison`).
    #[command(subcommand)]
    Poison(dead_letters::DeadLettersCommand),
    /// List, show, resend or dismiss mail that may have been sent already (`usher.parked`).
    #[command(subcommand)]
    Parked(dead_letters::DeadLettersCommand),
    /// List, show, cancel or send mail that is planned for later.
    #[command(subcommand)]
    Scheduled(scheduled::ScheduledCommand),
    /// Find, show, count, export and verify the records of deliveries; erase a recipient.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Take in reports about mail that was sent: bounces, notices of delivery, complaints.
    #[command(subcommand)]
    Receipts(receipts::ReceiptsCommand),
    /// List, show, add and remove addresses that get no mail any more.
    #[command(subcommand)]
    Suppressions(suppressions::SuppressionsCommand),
    /// List, show, push and activate templates in the database, which override the files.
    #[command(subcommand)]
    Templates(templates::TemplatesCommand),
    /// Show status events as they are published (`usher.status`).
    #[command(subcommand)]
    StatusEvents(status_events::StatusEventsCommand),
    /// Print the AsyncAPI contract for publishers, with a JSON Schema for each event.
    Asyncapi,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Ask a running usher whether it is alive (for containers).
    Healthcheck,
}

/// Reports that the runtime could not be started.
pub fn failed_to_start(error: &std::io::Error) -> ExitCode {
    print_err(&format!("usher: starting: {error}"));
    ExitCode::from(EXIT_SOFTWARE)
}

/// Runs the command and returns its exit code (sysexits.h).
pub async fn dispatch(cli: Cli) -> ExitCode {
    use DeadLetterQueue::{Dead, Parked, Poison};
    let found = Path::new(DEFAULT_CONFIG);
    let config = cli.config.as_deref().or_else(|| found.is_file().then_some(found));
    if cli.raw
        && let Err(failure) = output::set_raw()
    {
        return failed(&failure);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(config, args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Init(args) => init::run(&args),
        Command::Check(args) => check::run(config, &args).await,
        Command::Status(args) => Box::pin(status::run(config, &args)).await,
        Command::Setup => setup::run(config).await,
        Command::Render(args) => render::run(config, &args).await,
        Command::Publish(args) => publish::run(config, &args).await,
        Command::DeadLetters(command) => Box::pin(dead_letters::run(config, Dead, command)).await,
        Command::Poison(command) => Box::pin(dead_letters::run(config, Poison, command)).await,
        Command::Parked(command) => Box::pin(dead_letters::run(config, Parked, command)).await,
        Command::Scheduled(command) => scheduled::run(config, command).await,
        Command::Audit(command) => audit::run(config, command).await,
        Command::Receipts(command) => receipts::run(config, command).await,
        Command::Suppressions(command) => suppressions::run(config, command).await,
        Command::Templates(command) => templates::run(config, command).await,
        Command::StatusEvents(command) => status_events::run(config, command).await,
        Command::Asyncapi => asyncapi::run(config),
        Command::Openapi => openapi::run(),
        Command::Healthcheck => healthcheck::run(config).await,
    };
    result.unwrap_or_else(|failure| failed(&failure))
}

fn failed(failure: &Failure) -> ExitCode {
    print_err(&format!("usher: {failure}"));
    ExitCode::from(failure.code)
}

/// A broker that publishes for the daemon. It connects when it is used.
fn open_broker(loaded: &Configuration) -> Arc<AmqpBroker> {
    let settings = &loaded.settings;
    let topology = Topology::new(loaded.routing.queues(), &settings.retry_schedule)
        .with_status_events(settings.status_events);
    let identity = Identity::new(settings.pepper.expose());
    Arc::new(AmqpBroker::new(settings.rabbitmq.clone(), Arc::new(topology), identity))
}

/// Reads a file, or standard input for `-`.
fn read_input(path: &Path) -> Result<String, Failure> {
    let text = match path == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    text.with_context(|| path.display().to_string()).map_err(|error| Failure::new(EXIT_DATA, error))
}

/// Writes `name.extension` for each part into a folder, and prints the paths.
fn write_parts(folder: &Path, name: &str, parts: &[(&str, &str)]) -> Result<(), Failure> {
    private_files::create_folder(folder).with_context(|| folder.display().to_string())?;
    for (extension, part) in parts {
        let path = folder.join(format!("{name}.{extension}"));
        private_files::write(&path, part).with_context(|| path.display().to_string())?;
        output::print(&path.display().to_string());
    }
    Ok(())
}
