//! HTTP requests while usher dies at each step and its services are down. An accepted request is
//! sent once; a caller without an answer can repeat it.

use futures_util::future::join_all;
use mongodb::bson::doc;
use usher::crash_points::REQUEST_POINTS;

use super::{proxy::Weather, stage::Stage};
use crate::support::{
    events::REQUESTS,
    eventually,
    http::{Answer, request_with},
    smtp::Phase,
    usher::Usher,
};

const NOTIFY: &str = r#"{"to": "user@example.com", "subject": "Hello", "body": "World"}"#;

async fn stage() -> Stage {
    let mut stage = Stage::new().await;
    stage.set("HTTP_API", "on");
    // The repository's own.
    stage.set("ROUTES_FILE", "");
    stage
}

/// On a thread of its own, because it blocks and the mail server must run.
pub(super) async fn ask(
    method: &'static str,
    address: &str,
    path: &str,
) -> std::io::Result<Answer> {
    let url = format!("http://{address}{path}");
    let asked = move || request_with(method, &url, &[("Idempotency-Key", "once")], Some(NOTIFY));
    tokio::task::spawn_blocking(asked).await.expect("no panic")
}

/// Repeats the request until it is accepted.
async fn until_accepted(address: &str) -> Answer {
    eventually("the request is accepted", async || {
        let answer = ask("POST", address, "/api/notify/").await.ok()?;
        (answer.status == 202).then_some(answer)
    })
    .await
}

async fn until_ready(address: &str) {
    eventually("usher is ready", async || {
        ask("GET", address, "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
}

/// Checks that it is sent once.
async fn assert_sent_once(stage: &Stage, mut instance: Usher, address: &str) {
    eventually("it is sent", async || {
        let told = ask("GET", address, "/api/notify/1/").await.ok()?;
        told.body.contains(r#""status":"sent""#).then_some(())
    })
    .await;
    let requests = stage.collection("requests");
    eventually("it is marked", async || {
        requests.find_one(doc! {"state": "queued"}).await.expect("an answer")
    })
    .await;
    let broker = stage.broker().await;
    eventually("nothing waits", async || (broker.depth(REQUESTS).await == 0).then_some(())).await;
    instance.terminate().await;
    assert_eq!(requests.count_documents(doc! {}).await.expect("an answer"), 1);
    assert_eq!(stage.smtp.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_the_outbox_an_accepted_request_is_sent_once() {
    join_all(REQUEST_POINTS.map(|point| async move {
        let stage = stage().await;
        // Only requests that were left behind reach the sweep.
        let sweeps = ["after_request_claimed", "after_request_republished"].contains(&point);
        let first = if sweeps { "after_request_kept:1".to_owned() } else { format!("{point}:1") };
        // A mail that the dying instance had sent already would be parked as unknown.
        stage.smtp.at(Phase::Mail).hold();
        let mut doomed = stage.start(&[("USHER_CRASH_POINT", &first)]);
        let at = doomed.until_listening().await.to_owned();
        until_ready(&at).await;
        let answer = ask("POST", &at, "/api/notify/").await;
        assert!(
            !answer.is_ok_and(|answer| answer.status == 202),
            "{point}: accepted by a dead one"
        );
        doomed.ended().await;
        if sweeps {
            stage.start(&[("USHER_CRASH_POINT", &format!("{point}:1"))]).ended().await;
        }
        stage.smtp.relent();
        let mut next = stage.start(&[]);
        let at = next.until_listening().await.to_owned();
        until_accepted(&at).await;
        assert_sent_once(&stage, next, &at).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nothing_is_accepted_and_without_the_broker_it_waits() {
    let mut stage = stage().await;
    let mongodb = stage.behind_a_proxy("MONGODB_URI").await;
    let rabbitmq = stage.behind_a_proxy("RABBITMQ_URL").await;
    let mut instance = stage.start(&[]);
    let at = instance.until_listening().await.to_owned();
    until_ready(&at).await;
    mongodb.turn(Weather::Reset);
    let refused = ask("POST", &at, "/api/notify/").await.expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    mongodb.turn(Weather::Fair);
    rabbitmq.turn(Weather::Reset);
    let kept = until_accepted(&at).await;
    assert!(kept.body.contains(r#""status":"pending""#), "{kept:?}");
    rabbitmq.turn(Weather::Fair);
    assert_sent_once(&stage, instance, &at).await;
}
