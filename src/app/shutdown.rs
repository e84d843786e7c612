//! Shutdown: the first signal drains, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: 128 + SIGTERM.
const EXIT_SECOND_SIGNAL: i32 = 143;

/// Returns a token that SIGTERM and SIGINT cancel. A second signal ends the process.
///
/// # Errors
/// The signal handlers can't be installed.
pub(crate) fn on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tracing::warn!("second signal, ending at once");
                std::process::exit(EXIT_SECOND_SIGNAL);
            }
            token.cancel();
        }
    });
    Ok(stop)
}
