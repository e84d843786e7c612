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
    EnvFilter,
    filter::LevelFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{config::LogFormat, failure::Failure};

/// Starts logging to standard error. `default` is the level if `RUST_LOG` is unset.
///
/// # Errors
/// `RUST_LOG` can't be used.
pub(crate) fn init(format: LogFormat, default: &str) -> Result<(), Failure> {
    start(format, default, io::stderr)
}

/// Lines that wait until they are written.
const WAITING_LINES: usize = 10_000;
/// Lines that found no place among those that wait.
static OVERFLOW: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that could not be written.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Starts the log of the daemon. A thread writes it, so that a reader that stops or goes away stops no mail;
/// lines are lost instead, and counted. The guard writes what waits when it is dropped.
///
/// # Errors
/// `RUST_LOG` can't be used.
pub(crate) fn init_daemon(format: LogFormat) -> Result<WorkerGuard, Failure> {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true);
    let (writer, guard) = builder.thread_name("log").finish(CountedStderr);
    let _ = OVERFLOW.set(writer.error_counter());
    start(format, "info", writer)?;
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

fn start<W>(format: LogFormat, default: &str, writer: W) -> Result<(), Failure>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let filter = filter(&wanted.to_string_lossy(), default)
        .map_err(|reason| Failure::config(format!("RUST_LOG: {reason}")))?;
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

/// The filter that `RUST_LOG` asks for.
fn filter(wanted: &str, default: &str) -> Result<EnvFilter, String> {
    if wanted.trim().is_empty() {
        // lapin logs its errors, and also returns them to us.
        return Ok(EnvFilter::new(format!("{default},lapin=off")));
    }
    // A misspelt level would be taken for a module, and everything else would be silent.
    let is_level_or_module = |part: &str| {
        let module = part.split('=').next().unwrap_or_default();
        part.contains('[')
            || part.parse::<LevelFilter>().is_ok()
            || (module.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c))
                && (part.contains(['=', ':']) || part.starts_with("usher")))
    };
    let mut parts = wanted.split(',').map(str::trim).filter(|part| !part.is_empty());
    if let Some(part) = parts.find(|part| !is_level_or_module(part)) {
        return Err(format!(
            "{part:?} is neither a level (off, error, warn, info, debug, trace) nor a module with a \
             level, such as hyper=debug"
        ));
    }
    EnvFilter::try_new(wanted).map_err(|error| error.to_string())
}

/// Logs warnings only, for commands whose output people read.
pub(crate) fn init_quiet(format: LogFormat) -> Result<(), Failure> {
    init(format, "warn")
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_misspelt_level_is_a_fault() {
        for wanted in [
            "",
            " ",
            "info",
            "DEBUG",
            "off",
            "info,usher::delivery=debug",
            "usher",
            "warn,hyper=trace",
        ] {
            assert!(filter(wanted, "info").is_ok(), "{wanted}");
        }
        for wanted in ["inof", "info,debgu", "usher=debgu", "info;usher=debug"] {
            assert!(filter(wanted, "info").is_err(), "{wanted}");
        }
    }
}
