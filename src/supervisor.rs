//! Runs every long-running task by its name. One that panics or returns too early makes usher unready
//! and is started again with a back-off, so that no process looks alive and does nothing.
//!
//! `tokio::spawn` is left to short work whose failure somebody sees: a connection, a message.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::{
    spawn,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    crash_points::panicking,
    health::{Backoff, STEADY, Tasks},
};

macro_rules! tasks {
    ($($(#[$doc:meta])* $task:ident = $name:literal,)*) => {
        /// A long-running task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Task {
            $($(#[$doc])* $task,)*
        }

        impl Task {
            /// Every task of `usher run`, with services or embedded.
            pub const ALL: &[Self] = &[$(Self::$task,)*];

            /// Its name in `/readyz`, in metrics and in the log.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$task => $name,)*
                }
            }
        }
    };
}

tasks! {
    /// Takes messages from the broker.
    Consumers = "consumers",
    /// Hands planned mail to the broker when it is due.
    Scheduler = "scheduler",
    /// Forwards entries of Redis Streams to the broker.
    StreamSource = "stream_source",
    /// Publishes requests that came by HTTP and were not published at once.
    OutboxSweeper = "outbox_sweeper",
    /// Answers by HTTP.
    HttpServer = "http_server",
    /// Follows the change stream for the live feed.
    LiveFeed = "live_feed",
    /// Counts the listeners of the live feed.
    LiveFeedListeners = "live_feed_listeners",
    /// Loads templates of the database.
    TemplateWatcher = "template_watcher",
    /// Renews this instance's key in Redis and keeps the ledger's epoch.
    InstanceHeartbeat = "instance_heartbeat",
    /// Makes indexes and views; ends when they are there.
    DatabasePreparation = "database_preparation",
    /// Connects to the mail server once.
    EmailCheck = "email_check",
    /// Connects to the gateway for text messages once.
    SmsCheck = "sms_check",
    /// Counts planned mail.
    PlannedWatch = "planned_watch",
    /// Counts retries that are overdue.
    RetriesWatch = "retries_watch",
    /// Counts messages in queues.
    QueuesWatch = "queues_watch",
    /// Counts requests that wait to be published.
    RequestsWatch = "requests_watch",
    /// Looks for events that are expected and don't come.
    ExpectedWatch = "expected_watch",
    /// Compares MongoDB's certificates with those in use; ends when they have changed.
    CertificatesWatch = "certificates_watch",
    /// Sends inputs to the ledger in Redis.
    LedgerInputs = "ledger_inputs",
    /// Writes records to the audit.
    AuditWriter = "audit_writer",
    /// Publishes status events.
    StatusEvents = "status_events",
    /// Looks for the tombstones of erased recipients.
    ErasureLookups = "erasure_lookups",
    /// Writes planned mail.
    PlannedWriter = "planned_writer",
    /// Reads bookings.
    BookingLookups = "booking_lookups",
    /// Follows the suppression list.
    SuppressionWatch = "suppression_watch",
    /// Signs how long the audit's logs are.
    Checkpoints = "checkpoints",
    /// Does what follows from receipts.
    ReceiptFollowUp = "receipt_follow_up",
    /// Reads reports from a mailbox.
    MailboxReader = "mailbox_reader",
    /// Waits for SIGTERM and SIGINT.
    Signals = "signals",
    /// Waits for SIGHUP, and reads the configuration again.
    Reloader = "reloader",
    /// Reads events from standard input or a file, embedded only.
    EventReader = "event_reader",
}

/// Starts tasks and keeps them running; cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tasks: Tasks,
    /// How long a task that failed has to run until it is called well.
    steady: Duration,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { tasks: Tasks::default(), steady: STEADY }
    }
}

/// A task that can't be started again has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the task {} panicked", .0.name())]
pub struct Panicked(pub Task);

const PANICKED: &str = "it panicked";

impl Supervisor {
    /// The state of its tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Spawns a task that never returns; it is dropped when `end` is cancelled.
    pub fn spawn_forever<F>(
        &self,
        task: Task,
        end: &CancellationToken,
        start: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = self.clone().keep_running(task, end.clone(), || false, start);
        spawn(end.clone().run_until_cancelled_owned(running).map(drop))
    }

    /// Spawns a task as [`until_stopped`](Self::until_stopped) runs it.
    pub fn spawn_until_stopped<F>(
        &self,
        task: Task,
        stop: &CancellationToken,
        start: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        spawn(self.until_stopped(task, stop, start))
    }

    /// Spawns a task that returns when its work is done.
    pub fn spawn_until_done<F>(
        &self,
        task: Task,
        start: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        spawn(self.clone().keep_running(task, CancellationToken::new(), || true, start))
    }

    /// Runs a task that returns by itself once `stop` is cancelled.
    pub fn until_stopped<F, S>(
        &self,
        task: Task,
        stop: &CancellationToken,
        start: S,
    ) -> impl Future<Output = ()> + use<F, S>
    where
        F: Future<Output = ()>,
        S: FnMut() -> F,
    {
        let stopped = stop.clone();
        self.clone().keep_running(task, stop.clone(), move || stopped.is_cancelled(), start)
    }

    /// Runs work that can't be started again.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run_once<T>(
        &self,
        task: Task,
        work: impl Future<Output = T>,
    ) -> Result<T, Panicked> {
        self.tasks.started(task.name());
        let work = AssertUnwindSafe(panicking(task.name(), work)).catch_unwind();
        Box::pin(work).await.map_err(|_| {
            self.tasks.failed(task.name(), PANICKED);
            tracing::error!(task = task.name(), "task panicked and can't be started again");
            Panicked(task)
        })
    }

    /// Known from now on, run once it is awaited.
    fn keep_running<F: Future<Output = ()>>(
        self,
        task: Task,
        stop: CancellationToken,
        may_return: impl Fn() -> bool,
        start: impl FnMut() -> F,
    ) -> impl Future<Output = ()> {
        self.tasks.started(task.name());
        self.start_again_and_again(task.name(), stop, may_return, start)
    }

    async fn start_again_and_again<F: Future<Output = ()>>(
        self,
        name: &'static str,
        stop: CancellationToken,
        may_return: impl Fn() -> bool,
        mut start: impl FnMut() -> F,
    ) {
        let mut backoff = Backoff::default();
        let mut is_down = false;
        loop {
            let began = Instant::now();
            // Within the future, for whatever starts a task may panic as well.
            let work = panicking(name, async { start().await });
            let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
            let ended = tokio::select! {
                ended = &mut work => ended,
                () = sleep(self.steady), if is_down => {
                    self.recovered(name);
                    is_down = false;
                    work.await
                }
            };
            let reason = match ended {
                Ok(()) if may_return() => {
                    if is_down {
                        self.recovered(name);
                    }
                    return;
                }
                Ok(()) => "it returned",
                Err(_) => PANICKED,
            };
            is_down = true;
            self.tasks.failed(name, reason);
            let wait = backoff.after(began.elapsed());
            tracing::error!(task = name, reason, wait_ms = wait.as_millis(), "task failed");
            tokio::select! {
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                () = sleep(wait) => {}
            }
            self.tasks.restarted(name);
        }
    }

    fn recovered(&self, name: &'static str) {
        self.tasks.recovered(name);
        tracing::info!(task = name, "task is well again");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
    };

    use super::*;
    use crate::health::{Health, TaskState};

    const BRIEF: Duration = Duration::from_millis(300);

    fn supervisor() -> Supervisor {
        Supervisor { steady: BRIEF, ..Supervisor::default() }
    }

    fn state(supervisor: &Supervisor) -> TaskState {
        supervisor.tasks().all()[Task::TemplateWatcher.name()].clone()
    }

    async fn until(supervisor: &Supervisor, wanted: TaskState) {
        while state(supervisor) != wanted {
            sleep(Duration::from_millis(2)).await;
        }
    }

    const PANICKED_ONCE: TaskState = TaskState { failure: Some(PANICKED), restarts: 0 };
    const WELL_AGAIN: TaskState = TaskState { failure: None, restarts: 1 };

    #[tokio::test]
    async fn a_task_that_panics_makes_usher_unready_until_it_has_run_for_a_while() {
        let supervisor = supervisor();
        let health = Health { tasks: supervisor.tasks().clone(), ..Health::default() };
        for dependency in health.all() {
            dependency.up();
        }
        let (end, runs) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let task = supervisor.spawn_forever(Task::TemplateWatcher, &end, {
            let runs = runs.clone();
            move || {
                let is_first = runs.fetch_add(1, Relaxed) == 0;
                async move {
                    assert!(!is_first, "as the test wants it");
                    pending::<()>().await;
                }
            }
        });
        until(&supervisor, PANICKED_ONCE).await;
        assert!(!health.is_ready());
        let began = Instant::now();
        until(&supervisor, WELL_AGAIN).await;
        assert!(began.elapsed() >= BRIEF, "{:?}", began.elapsed());
        assert!(health.is_ready());
        assert_eq!(runs.load(Relaxed), 2);
        end.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_returns_before_it_was_stopped_is_started_again() {
        let supervisor = supervisor();
        let (stop, runs) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let task = supervisor.spawn_until_stopped(Task::TemplateWatcher, &stop, {
            let (stop, runs) = (stop.clone(), runs.clone());
            move || {
                let (stop, is_first) = (stop.clone(), runs.fetch_add(1, Relaxed) == 0);
                async move {
                    if !is_first {
                        stop.cancelled().await;
                    }
                }
            }
        });
        until(&supervisor, TaskState { failure: Some("it returned"), restarts: 0 }).await;
        until(&supervisor, WELL_AGAIN).await;
        stop.cancel();
        task.await.unwrap();
        assert_eq!(runs.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn stopped_while_it_waits_for_its_next_run_a_task_ends_at_once() {
        let supervisor = supervisor();
        let stop = CancellationToken::new();
        let task = supervisor.spawn_until_stopped(Task::TemplateWatcher, &stop, {
            let stop = stop.clone();
            move || {
                let stop = stop.clone();
                async move { assert!(stop.is_cancelled(), "as the test wants it") }
            }
        });
        until(&supervisor, TaskState { restarts: 2, ..PANICKED_ONCE }).await;
        // The next run is due in 800 ms.
        sleep(Duration::from_millis(20)).await;
        let began = Instant::now();
        stop.cancel();
        task.await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_task_whose_work_is_done_is_well_and_not_started_again() {
        let supervisor = supervisor();
        let runs = Arc::new(AtomicU32::new(0));
        let task = supervisor.spawn_until_done(Task::TemplateWatcher, {
            let runs = runs.clone();
            move || {
                let is_first = runs.fetch_add(1, Relaxed) == 0;
                async move { assert!(!is_first, "as the test wants it") }
            }
        });
        task.await.unwrap();
        assert_eq!(state(&supervisor), WELL_AGAIN);
        assert_eq!(runs.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn work_that_can_not_be_started_again_gives_an_error_when_it_panics() {
        let supervisor = supervisor();
        let work = async { assert!(supervisor.tasks().all().is_empty(), "as the test wants it") };
        let panicked = supervisor.run_once(Task::TemplateWatcher, work).await.unwrap_err();
        assert_eq!(panicked.to_string(), "the task template_watcher panicked");
        assert_eq!(state(&supervisor), PANICKED_ONCE);
    }

    #[test]
    fn only_work_whose_failure_somebody_sees_is_spawned_without_a_supervisor() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut folders, mut found) = (vec![source.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !path.ends_with("tests") {
                        folders.push(path);
                    }
                } else if std::fs::read_to_string(&path).is_ok_and(|text| {
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    path.extension().is_some_and(|it| it == "rs")
                        && code.lines().any(|line| line.contains(concat!("tokio::", "spawn(")))
                }) {
                    found.push(path.strip_prefix(&source).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        let known = [
            "api/dead_letters/decide.rs", // One request, whose answer says that it ended half-way.
            "api/feed/mod.rs",            // One listener: it hears that nothing more comes.
            "app/embedded.rs",            // The reader, which `run_once` watches.
            "broker/amqp/acks.rs",        // Its consumer panics as well.
            "broker/amqp/consumer.rs",    // The close of one connection.
            "channel/email/smtp/relay.rs", // The QUIT of one connection; deliveries do what the other fails to.
            "channel/sms/gateway.rs",      // One connection.
            "clients/redis.rs",            // The next connection; the one before stays in use.
        ];
        assert_eq!(found, known);
    }
}
