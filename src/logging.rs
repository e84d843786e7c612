//! Logs to standard error: readable text on a terminal, else JSON lines.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{config::LogFormat, failure::Failure};

/// Starts logging to standard error. `default` is the level if `RUST_LOG` is unset.
///
/// # Errors
/// `RUST_LOG` can't be used.
pub(crate) fn init(format: LogFormat, default: &str) -> Result<(), Failure> {
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let filter = filter(&wanted.to_string_lossy(), default)
        .map_err(|reason| Failure::config(format!("RUST_LOG: {reason}")))?;
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
