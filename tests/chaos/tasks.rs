//! A panic in each long-running task: usher says which one, goes on by itself, and nothing is lost or
//! sent twice. What can't be started again ends the process with an error.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, stream};
use usher::supervisor::Task;

use super::{
    batch::{Kind, MIX, Published, batch},
    oracle::Limits,
    requests::ask,
    stage::Stage,
};
use crate::support::{eventually, usher::Builder, world::CHECKPOINT_KEY};

/// Cases side by side: most of each is waiting until usher calls the task well.
const AT_ONCE: usize = 10;

/// Tasks that panic in the middle of their work, and when.
const BUSY: [(&str, u32); 9] = [
    ("consumers", 40),
    // A part of the consumers, which fail with it.
    ("acknowledgements", 2),
    ("ledger_inputs", 6),
    ("audit_writer", 4),
    ("planned_writer", 2),
    ("instance_heartbeat", 4),
    ("template_watcher", 4),
    ("scheduler", 6),
    ("http_server", 4),
];

/// Tasks that end when their work is done: they may be well again before anybody asks.
const BRIEF: [&str; 3] = ["database_preparation", "email_check", "sms_check"];

#[tokio::test(flavor = "multi_thread")]
async fn whichever_task_panics_usher_names_it_and_goes_on() {
    // Neither runs here: the embedded mode's, and that of a mailbox.
    let others = [Task::EventReader, Task::MailboxReader];
    let started = Task::ALL.iter().filter(|task| !others.contains(task));
    let first = started.map(|task| (task.name(), 1));
    let cases = first.chain(BUSY).map(|(task, turn)| async move {
        // A failure spoils one case only; what it says is printed.
        let ran = AssertUnwindSafe(panic_in(task, turn)).catch_unwind().await;
        let faults = ran.unwrap_or_else(|_| vec!["it failed".to_owned()]);
        faults.into_iter().map(move |fault| format!("{task}:{turn}: {fault}"))
    });
    let faults: Vec<_> = stream::iter(cases).buffer_unordered(AT_ONCE).collect().await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Gives what the oracle complains of.
async fn panic_in(task: &'static str, turn: u32) -> Vec<String> {
    let mut stage = Stage::new().await;
    stage.set("HTTP_API", "on");
    stage.set("STATUS_EVENTS", "on");
    if task == "checkpoints" {
        stage.set("CHECKPOINT_KEY", CHECKPOINT_KEY);
    }
    let redis = stage.setting("REDIS_URL").to_owned();
    stage.set("STREAM_URL", &redis);
    stage.set("STREAM_KEYS", &format!("stream:{}", stage.name()));
    let mut published = batch(&MIX, MIX.len(), &stage.smtp);
    stage.publish(&published).await;
    let mut instance = stage.start(&[("USHER_PANIC_TASK", &format!("{task}:{turn}"))]);
    let at = instance.until_listening().await.to_owned();
    let named = if task == "acknowledgements" { "consumers" } else { task };
    if !BRIEF.contains(&task) {
        eventually("it is unready and names the task", async || {
            let ready = ask("GET", &at, "/readyz?verbose").await.ok()?;
            let is_named = ready.body.contains(&format!("[-] task {named} it panicked\n"));
            (is_named && ready.status == 503).then_some(())
        })
        .await;
    }
    eventually("it is ready again", async || {
        let ready = ask("GET", &at, "/readyz?verbose").await.ok()?;
        let is_named = ready.body.contains(&format!("[+] task {named} ok\n"));
        (is_named && ready.status == 200).then_some(())
    })
    .await;
    let metrics = ask("GET", &at, "/metrics").await.expect("an answer").body;
    let restarts = format!("usher_task_restarts_total{{task=\"{named}\"}} 1");
    assert!(metrics.lines().any(|line| line == restarts), "no {restarts} in\n{metrics}");
    let later = [Published::new(Kind::Plain, MIX.len()), Published::new(Kind::Low, MIX.len())];
    stage.publish(&later).await;
    published.extend(later);
    eventually("the rest is sent", async || {
        let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
        (stage.over().await >= wanted).then_some(())
    })
    .await;
    let drained = instance.terminate().await;
    assert!(drained.success(), "{drained}:\n{}", instance.log());
    let limits = Limits { parked: 0, doubles: 0 };
    stage.verdict(&published, vec![instance], limits).await.faults
}

#[tokio::test]
async fn embedded_a_panic_of_reader_or_consumers_ends_the_process_with_an_error() {
    for task in [Task::EventReader, Task::Consumers] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let doom = format!("{}:1", task.name());
        let usher = Builder::new(folder.path())
            .set("FROM_EMAIL", "noreply@cine.test")
            .set("USHER_PANIC_TASK", doom);
        let ended = usher.output(&["run", "--embedded", "data", "--events", "/dev/null"]).await;
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(70), "{told}");
        let last = told.lines().last().unwrap_or_default();
        assert_eq!(last, format!("usher: the task {} panicked", task.name()));
    }
}
