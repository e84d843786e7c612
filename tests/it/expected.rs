//! Events that are expected and don't come: said once, and not after a start.

use redis::AsyncCommands;
use serde_json::{Value, json};
use usher::routing::Identity;

use crate::support::{
    events::{PAYMENTS, SEED_PAYMENT},
    eventually,
    smtp::SmtpServer,
    usher::{Builder, Usher},
    world::World,
};

const EVENT: &str = "payment.success";

/// Minutes ago, in Unix milliseconds.
fn ago(minutes: i64) -> i64 {
    jiff::Timestamp::now().as_millisecond() - minutes * 60_000
}

/// What instances have found until now.
async fn know(world: &World, since: i64, last: i64, looked: i64) {
    let client = redis::Client::open(world.redis_url()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    let key = format!("usher:expected:{}", Identity::new(world.name()).deployment());
    let times = json!({EVENT: {"since": ago(since), "last": ago(last), "looked": ago(looked)}});
    let _: () = redis.set(key, times.to_string()).await.expect("written");
}

async fn until_missing(usher: &Usher, is_missing: u8) {
    let line = format!("usher_expected_event_missing{{event_type=\"{EVENT}\"}} {is_missing}");
    eventually(&line, async || {
        usher.get("/metrics").body.lines().any(|one| one == line).then_some(())
    })
    .await;
}

async fn alarms(usher: &Builder) -> Vec<String> {
    let output = usher.output(&["status", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    serde_json::from_value(report["alarms"].clone()).expect("texts")
}

#[tokio::test]
async fn an_event_that_does_not_come_is_told_once_and_not_after_a_pause() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let routes = world.folder().join("routes.toml");
    let expect = format!("[[expect]]\nevent = '{EVENT}'\nwithin = '2m'\n");
    std::fs::write(&routes, expect).expect("written");
    let builder = world.usher().smtp(&smtp).set("ROUTES_FILE", routes.display().to_string());
    // Nobody has looked for three minutes, as after a stop.
    know(&world, 600, 5, 3).await;
    let first = builder.start().await;
    until_missing(&first, 0).await;
    let second = builder.start().await;
    until_missing(&second, 0).await;
    assert_eq!(alarms(&builder).await, Vec::<String>::new());

    know(&world, 600, 5, 0).await;
    until_missing(&first, 1).await;
    until_missing(&second, 1).await;
    eventually("both have told Redis, and it is one alarm", async || {
        let alarms = alarms(&builder).await;
        let told = alarms.first()?;
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert!(told.starts_with("no payment.success has come since "), "{told}");
        assert!(told.ends_with("(5 min); one is expected within 2m"), "{told}");
        Some(())
    })
    .await;

    // It comes to one of them.
    world.broker.publish(PAYMENTS, SEED_PAYMENT).await;
    until_missing(&first, 0).await;
    until_missing(&second, 0).await;
    for usher in [first, second] {
        assert_eq!(usher.find_log("an expected event does not come").len(), 1);
    }
}

#[tokio::test]
async fn an_expectation_of_an_unknown_event_is_a_fault() {
    let world = World::new().await;
    let routes = world.folder().join("routes.toml");
    std::fs::write(&routes, "[[expect]]\nevent = 'payment.sucess'\nwithin = '2m'")
        .expect("written");
    let builder = world.usher().set("ROUTES_FILE", routes.display().to_string());
    let output = builder.output(&["check", "--offline"]).await;
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("expect 1: \"payment.sucess\" has no route"), "{said}");
}
