//! Logs to standard error: readable text on a terminal, else JSON lines.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::Directive,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogFormat, Settings, log_levels},
    failure::Failure,
};

/// Starts logging to standard error. `default` is the level if `RUST_LOG` is unset.
///
/// # Errors
/// `RUST_LOG` can't be used.
pub(crate) fn init(format: LogFormat, default: &str) -> Result<(), Failure> {
    start(format, filter(default)?, io::stderr)
}

/// Lines that wait until they are written.
const WAITING_LINES: usize = 10_000;
/// Lines that found no place among those that wait.
static OVERFLOW: OnceLock<ErrorCounter> = OnceLock::new();
/// The levels of the daemon's log.
static LEVELS: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
/// Lines that could not be written.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Starts the log of the daemon. A thread writes it, so that a reader that stops or goes away stops no mail;
/// lines are lost instead, and counted. The guard writes what waits when it is dropped.
///
/// # Errors
/// `RUST_LOG` can't be used.
pub(crate) fn init_daemon(settings: &Settings) -> Result<WorkerGuard, Failure> {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true);
    let (writer, guard) = builder.thread_name("log").finish(CountedStderr);
    let _ = OVERFLOW.set(writer.error_counter());
    let (filter, levels) = reload::Layer::new(filter(&settings.log_level)?);
    let _ = LEVELS.set(levels);
    start(settings.log_format, filter, writer)?;
    Ok(guard)
}

/// How many lines of the daemon's log were lost.
pub(crate) fn lost_lines() -> u64 {
    let overflow = OVERFLOW.get().map_or(0, ErrorCounter::dropped_lines);
    UNWRITTEN.load(Ordering::Relaxed) + overflow as u64
}

struct CountedStderr;

impl Write for CountedStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(line);
        if written.is_err() {
            UNWRITTEN.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn start<F, W>(format: LogFormat, filter: F, writer: W) -> Result<(), Failure>
where
    F: Layer<Registry> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(writer);
    // A second call, as in tests, changes nothing.
    let _ = if human {
        registry.with(layer.with_target(false).with_ansi(io::stderr().is_terminal())).try_init()
    } else {
        registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()
    };
    Ok(())
}

/// The filter for the levels that `RUST_LOG` asks for, else for these.
fn filter(levels: &str) -> Result<EnvFilter, Failure> {
    // Whatever is asked for: it logs logins and messages.
    let without_secrets: Directive =
        "async_imap::imap_stream=off".parse().map_err(anyhow::Error::from)?;
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    if wanted.trim().is_empty() {
        // lapin logs its errors, and also returns them to us.
        let levels = EnvFilter::new(format!("lapin=off,{levels}"));
        return Ok(levels.add_directive(without_secrets));
    }
    let wanted = log_levels(&wanted);
    let wanted = wanted.map_err(|reason| Failure::config(format!("RUST_LOG: {reason}")))?;
    Ok(EnvFilter::new(wanted).add_directive(without_secrets))
}

/// Changes the levels of the daemon's log, unless `RUST_LOG` has set them.
///
/// # Errors
/// There is no such log.
pub(crate) fn set_levels(levels: &str) -> Result<(), Failure> {
    let Some(handle) = LEVELS.get() else { return Ok(()) };
    Ok(handle.reload(filter(levels)?)?)
}

/// Logs warnings only, for commands whose output people read.
pub(crate) fn init_quiet(format: LogFormat) -> Result<(), Failure> {
    init(format, "warn")
}
