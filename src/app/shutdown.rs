//! Ending: the first signal drains, the second leaves at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice: 128 + SIGTERM.
const TOLD_TWICE: i32 = 143;

/// A token that is cancelled by SIGTERM or SIGINT; a second signal ends the process.
///
/// # Errors
/// The signals can't be listened to.
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
                tracing::warn!("second signal, leaving at once");
                std::process::exit(TOLD_TWICE);
            }
            token.cancel();
        }
    });
    Ok(stop)
}
