//! Logs to standard error: readable text on a terminal, else JSON lines.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Starts logging to standard error. `default` is the level if `RUST_LOG` is unset.
pub fn init(format: LogFormat, default: &str) {
    // lapin logs its errors, and also returns them to us.
    let fallback = format!("{default},lapin=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    // A second call, as in tests, changes nothing.
    let _ = if human {
        registry
            .with(layer.with_target(false).with_ansi(std::io::stderr().is_terminal()))
            .try_init()
    } else {
        registry
            .with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .try_init()
    };
}

/// Logs warnings only, for commands whose output people read.
pub(crate) fn init_quiet(format: LogFormat) {
    init(format, "warn");
}
