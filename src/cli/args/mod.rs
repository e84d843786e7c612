//! The command line.

mod audit;
mod dead_letters;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use jiff::{Span, Timestamp, tz::TimeZone};

pub use audit::{
    AuditCommand, AuditFilter, EraseArgs, ExportArgs, ExportShape, FindArgs, Shape, ShowArgs,
    StatsArgs,
};
pub use dead_letters::{
    CorrectionArgs, DeadLettersCommand, DeadLettersFilter, DeadLettersSelection,
};

use super::run::RunArgs;
use crate::scheduler::State;

/// Turns events from RabbitMQ into mail, each exactly as often as it should, with an audit record of every delivery.
#[derive(Debug, Parser)]
#[command(name = "usher", version, about)]
pub struct Cli {
    /// Settings file (TOML); the environment overrides it.
    #[arg(long, global = true, env = "USHER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What usher can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume events and send their notifications until told to stop.
    Run(RunArgs),
    /// Show the whole line at work on sample events, with no service at all.
    Demo(DemoArgs),
    /// Check settings, routes and templates, then every connection and the SMTP login.
    Check(CheckArgs),
    /// Render the mails of an event without sending them.
    Render(RenderArgs),
    /// Publish events to their queues, confirmed by the broker.
    Publish(PublishArgs),
    /// Mail that can't be delivered (`usher.dead`).
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Messages that can't be understood (`usher.poison`).
    #[command(subcommand)]
    Poison(DeadLettersCommand),
    /// Mail of which nobody can tell whether it went out (`usher.parked`).
    #[command(subcommand)]
    Parked(DeadLettersCommand),
    /// Mail for later.
    #[command(subcommand)]
    Scheduled(ScheduledCommand),
    /// What became of every delivery.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Templates in the database, which go before the files.
    #[command(subcommand)]
    Templates(TemplatesCommand),
    /// Print the contract for publishers: AsyncAPI, with a JSON Schema for every event.
    Asyncapi,
    /// Print the document of the HTTP API: OpenAPI.
    Openapi,
    /// Ask a running usher whether it lives; for containers.
    Healthcheck,
}

/// What can be done with mail for later.
#[derive(Debug, Subcommand)]
pub enum ScheduledCommand {
    /// List it, soonest first.
    List {
        /// Which.
        #[command(flatten)]
        filter: ScheduledFilter,
        /// Instead: what should be gone for 5 minutes, and retries that nobody made.
        #[arg(long, conflicts_with_all = ["booking", "since", "until", "state"])]
        overdue: bool,
        /// At most this many.
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one with its event.
    Show {
        /// Its id.
        delivery: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Never send it.
    Cancel(ChooseArgs),
    /// Send it now instead of later.
    SendNow(ChooseArgs),
}

/// Which mail for later.
#[derive(Debug, Args)]
pub struct ScheduledFilter {
    /// About this booking.
    #[arg(long, value_name = "ID")]
    pub booking: Option<String>,
    /// Due then or later: a time such as 2030-01-31T20:00:00Z, or so long from now, such as 2h or -1d.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    pub since: Option<Timestamp>,
    /// Due before then.
    #[arg(long, value_name = "TIME", value_parser = moment, allow_hyphen_values = true)]
    pub until: Option<Timestamp>,
    /// planned, claimed, published or void.
    #[arg(long, default_value = "planned", value_parser = state)]
    pub state: State,
}

/// A time, or so long from now.
fn moment(text: &str) -> Result<Timestamp, String> {
    time_or_span(text, |span| span)
}

/// A time, or so long ago.
fn past(text: &str) -> Result<Timestamp, String> {
    time_or_span(text, |span| -span.abs())
}

fn time_or_span(text: &str, from_now: impl Fn(Span) -> Span) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let span: Span = text.parse().map_err(|_| "is neither a time nor a length of time")?;
    let then = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(from_now(span));
    then.map(|then| then.timestamp()).map_err(|error| error.to_string())
}

fn state(text: &str) -> Result<State, String> {
    let all = [State::Planned, State::Claimed, State::Published, State::Void];
    all.into_iter().find(|state| state.as_str() == text).ok_or_else(|| "is no state".to_owned())
}

/// Which messages, and why.
#[derive(Debug, Args)]
pub struct ChooseArgs {
    /// Delivery ids, as `list` shows them.
    #[arg(required = true)]
    pub deliveries: Vec<String>,
    /// Why; recorded in the audit.
    #[arg(long)]
    pub reason: String,
    /// Who does it; recorded in the audit.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Do it; without this, only say what would be done.
    #[arg(long)]
    pub yes: bool,
}

/// What can be done with templates in the database.
#[derive(Debug, Subcommand)]
pub enum TemplatesCommand {
    /// List templates and where each comes from.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print a template: the active one, a version, or the file.
    Show {
        /// Which.
        #[command(flatten)]
        place: TemplatePlace,
        /// This version instead of the one in use.
        #[arg(long, value_name = "N")]
        version: Option<i64>,
    },
    /// Try a template on its samples and store it as a new version.
    Push {
        /// Which.
        #[command(flatten)]
        place: TemplatePlace,
        /// Folder with <locale>.subject.hbs, <locale>.mjml.hbs or <locale>.html.hbs, and <locale>.txt.hbs.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
        /// Use it at once.
        #[arg(long)]
        activate: bool,
        /// Who does it; recorded.
        #[arg(long, env = "USER", default_value = "unknown")]
        by: String,
    },
    /// Use a version.
    Activate {
        /// Which.
        #[command(flatten)]
        place: TemplatePlace,
        /// Its number.
        #[arg(long, value_name = "N")]
        version: i64,
        /// Who does it; recorded.
        #[arg(long, env = "USER", default_value = "unknown")]
        by: String,
    },
    /// Use the file again.
    Deactivate {
        /// Which.
        #[command(flatten)]
        place: TemplatePlace,
        /// Who does it; recorded.
        #[arg(long, env = "USER", default_value = "unknown")]
        by: String,
    },
    /// List every version of a template.
    History {
        /// Its name.
        name: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

/// A template in a language.
#[derive(Debug, Args)]
pub struct TemplatePlace {
    /// Its name, such as booking_confirmation or BookingConfirmation.
    pub name: String,
    /// es or en.
    #[arg(long, value_name = "LOCALE")]
    pub locale: String,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where mails, records and the gallery go.
    #[arg(long, value_name = "DIR", default_value = "usher-demo")]
    pub out: PathBuf,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Leave out the connections.
    #[arg(long)]
    pub offline: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The event, as published; - is standard input.
    #[arg(required_unless_present = "all")]
    pub event: Option<PathBuf>,
    /// Render every sample in every language and write a gallery of them.
    #[arg(long, requires = "out", conflicts_with_all = ["event", "locale"])]
    pub all: bool,
    /// With --all: render again whenever ROUTES_FILE or TEMPLATES_DIR changes, until interrupted.
    #[arg(long, requires = "all")]
    pub watch: bool,
    /// Render in this locale instead of the event's.
    #[arg(long, value_name = "LOCALE")]
    pub locale: Option<String>,
    /// Write each mail's parts to files in this folder instead of printing them.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options of `publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// One event, an array of events or NDJSON; - is standard input.
    pub file: PathBuf,
    /// Publish to this queue instead of the one of each event's route.
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
}
