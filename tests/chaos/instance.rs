//! One usher process: started, stopped, continued, killed.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end or to be ready on a loaded machine.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running daemon; killed when dropped.
pub(crate) struct Instance {
    child: Child,
    log: PathBuf,
}

impl Instance {
    pub(super) fn start(
        folder: &Path,
        number: usize,
        settings: &BTreeMap<String, String>,
        extra: &[(&str, &str)],
    ) -> Self {
        let log = folder.join(format!("usher-{number:04}.log"));
        let mut command = Self::command(folder, settings, extra);
        // A file keeps the output of a process that is killed in the middle of a line.
        let file = File::create(&log).expect("a log file");
        command.arg("run").stdout(Stdio::null()).stderr(file);
        Self { child: command.spawn().expect("the binary starts"), log }
    }

    /// The binary, with nothing of the developer's own environment but the path and the home.
    pub(super) fn command(
        folder: &Path,
        settings: &BTreeMap<String, String>,
        extra: &[(&str, &str)],
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.env_clear().envs(settings).envs(extra.iter().copied());
        for name in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(folder).stdin(Stdio::null());
        command
    }

    /// Its output so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// SIGTERM, then its end; one that has ended already is left alone.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        if !self.has_ended() {
            self.signal(Signal::TERM);
        }
        self.ended().await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not reaped");
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}\n---", self.log.display(), self.log());
        }
    }
}
