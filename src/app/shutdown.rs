//! Shutdown: the first signal drains, the second ends the process at once.

use std::sync::Arc;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use crate::supervisor::{Supervisor, Task};

/// Exit code after a second signal: 128 + SIGTERM.
const EXIT_SECOND_SIGNAL: i32 = 143;

/// Returns a token that SIGTERM and SIGINT cancel. A second signal ends the process.
///
/// # Errors
/// The signal handlers can't be installed.
pub(crate) fn on_signal(supervisor: &Supervisor) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    // Kept for the next run of the task, so that it misses no signal.
    let (signals, token) = (Arc::new(Mutex::new(signals)), stop.clone());
    supervisor.spawn_forever(Task::Signals, &CancellationToken::new(), move || {
        let (signals, token) = (signals.clone(), token.clone());
        async move { listen(&mut *signals.lock().await, &token).await }
    });
    Ok(stop)
}

async fn listen([terminate, interrupt]: &mut [Signal; 2], stop: &CancellationToken) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            tracing::warn!("second signal, ending at once");
            std::process::exit(EXIT_SECOND_SIGNAL);
        }
        stop.cancel();
    }
}
