//! The real binary as a child process with an environment of its own.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde_json::Value;
use tokio::sync::watch;

use super::{
    LOOK_AGAIN, eventually,
    http::{Answer, request, request_with},
    in_time,
    smtp::SmtpServer,
};

/// How the binary is to be started.
#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) settings: BTreeMap<String, String>,
    folder: PathBuf,
}

/// A running daemon; killed when dropped.
pub(crate) struct Usher {
    child: Child,
    logs: Arc<Mutex<Vec<String>>>,
    /// Where its log is kept once it is dropped.
    kept: PathBuf,
    /// Reads the log until the process ends.
    reader: Option<JoinHandle<()>>,
    /// Whether the log is read; once it is `None`, its pipe is closed.
    is_read: watch::Sender<Option<bool>>,
    address: String,
}

impl Builder {
    /// Without any setting. `folder` is the working directory.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { settings: BTreeMap::new(), folder: folder.to_owned() }
    }

    /// A setting, by its name in the environment.
    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a setting.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Removes the certificates of these services: their connections are not encrypted.
    pub(crate) fn uncertified(mut self, services: &[&str]) -> Self {
        for service in services {
            for file in ["CA", "CERT", "KEY"] {
                self.settings.remove(&format!("{service}_{file}_FILE"));
            }
        }
        self
    }

    /// Mail goes to this server, unencrypted.
    pub(crate) fn smtp(self, server: &SmtpServer) -> Self {
        self.set("SMTP_SERVER", "127.0.0.1")
            .set("SMTP_PORT", server.port().to_string())
            .set("SMTP_TLS", "none")
    }

    /// The command, with nothing of the developer's own environment but the path and the home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(arguments).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        for name in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Who decides; commands refuse to guess.
        command.env("USER", "tester").envs(&self.settings);
        command
    }

    /// Runs a command that ends by itself.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        // The test's own servers must keep answering meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output());
        output.await.expect("no panic").expect("the binary starts")
    }

    /// Starts `usher run`, and waits for nothing.
    pub(crate) fn run(&self) -> Usher {
        let mut command = self.command(&["run"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it was piped");
        let logs = Arc::<Mutex<Vec<String>>>::default();
        let lines = logs.clone();
        let (is_read, wanted) = watch::channel(Some(true));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("no reader panicked").push(line);
                while *wanted.borrow() == Some(false) && wanted.has_changed().is_ok() {
                    std::thread::sleep(LOOK_AGAIN);
                }
                if wanted.borrow().is_none() {
                    return;
                }
            }
        });
        let kept = self.folder.join(format!("usher-{}.log", child.id()));
        Usher { child, logs, kept, reader: Some(reader), is_read, address: String::new() }
    }

    /// Starts `usher run` and waits until it listens, not until its services answer.
    pub(crate) async fn spawn(&self) -> Usher {
        let mut usher = self.run();
        usher.until_listening().await;
        usher
    }

    /// Starts `usher run` and waits until it is ready.
    pub(crate) async fn start(&self) -> Usher {
        let usher = self.spawn().await;
        usher.until_ready().await;
        usher
    }
}

impl Usher {
    pub(crate) fn get(&self, path: &str) -> Answer {
        request("GET", &format!("http://{}{path}", self.address), None).expect("an answer")
    }

    /// Any request, with these headers and this body.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        json: Option<&str>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.address);
        request_with(method, &url, headers, json).expect("an answer")
    }

    /// Waits until it listens; gives where.
    pub(crate) async fn until_listening(&mut self) -> &str {
        let address = eventually("usher listens", async || {
            assert!(!self.has_ended(), "usher has ended:\n{}", self.log());
            self.find_log("listening").first().map(|line| line["address"].clone())
        })
        .await;
        self.address = address.as_str().expect("an address").to_owned();
        &self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn until_ready(&self) {
        // Channels too, which readiness leaves out.
        eventually("usher is ready", async || (self.get("/readyz").body == "ok\n").then_some(()))
            .await;
    }

    /// Waits until it reports that a dependency is down; returns the reason.
    pub(crate) async fn until_down(&self, dependency: &str) -> String {
        let sign = format!("[-] {dependency} ");
        eventually(&format!("{dependency} is down"), async || {
            let answer = self.get("/readyz?verbose");
            let reason = answer.body.lines().find_map(|line| line.strip_prefix(&sign));
            reason.filter(|reason| *reason != "not reached yet").map(ToOwned::to_owned)
        })
        .await
    }

    /// Its output so far.
    pub(crate) fn log(&self) -> String {
        self.logs.lock().expect("no reader panicked").join("\n")
    }

    /// Reads its log no more, until it is read again (`Some(true)`) or its pipe is closed (`None`).
    pub(crate) fn read_log(&self, is_read: Option<bool>) {
        let _ = self.is_read.send_replace(is_read);
    }

    /// The log lines with this message.
    pub(crate) fn find_log(&self, message: &str) -> Vec<Value> {
        let logs = self.logs.lock().expect("no reader panicked");
        let lines = logs.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Waits until it has processed this many messages, including hand-offs and redeliveries but
    /// without messages that it could not understand.
    pub(crate) async fn until_processed(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} messages processed"), async || {
            let lines = self.find_log("event processed");
            (lines.len() >= count).then_some(lines)
        })
        .await
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Sends SIGTERM, unless it has ended already; returns the exit status.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        if !self.has_ended() {
            self.signal("TERM");
        }
        self.ended().await
    }

    /// Any signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`: a minimal Debian has no other.
        let script = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &script]).status().expect("sh");
        assert!(sent.success(), "SIG{name} was not sent");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    return status;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        in_time("usher ends", ended).await
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Usher {
    fn drop(&mut self) {
        self.kill();
        self.read_log(Some(true));
        let _ = self.reader.take().map(JoinHandle::join);
        // Its folder may be gone.
        let _ = std::fs::write(&self.kept, self.log());
        if std::thread::panicking() {
            eprintln!("--- log of usher {} ---\n{}\n---", self.child.id(), self.log());
        }
    }
}
