//! kill -9 between the steps of the stream source, and streams that are lost.

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use usher::crash_points::STREAM_SOURCE_POINTS;

use super::{
    batch::{MIX, Published, batch},
    daemon::Daemon,
    oracle::Limits,
    proxy::Weather,
    stage::Stage,
};
use crate::support::{eventually, exported, usher::Usher};

/// Mails in the SMTP window at once, so the most that one kill can leave unknown.
const WINDOW: usize = 4;

async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("Redis")
}

/// A batch as entries of a stream; only the entries' ids distinguish the events.
fn entries(key: &str, published: Vec<Published>, first: usize) -> Vec<(String, Published)> {
    let entry = |(number, mut event): (usize, Published)| {
        let id = format!("{}-1", first + number);
        if let Ok(Value::Object(mut fields)) = serde_json::from_str(&event.body) {
            fields.remove("event_id");
            event.body = Value::Object(fields).to_string();
        }
        event.id = format!("{key}/{id}");
        (id, event)
    };
    published.into_iter().enumerate().map(entry).collect()
}

async fn add(redis: &mut MultiplexedConnection, key: &str, entries: &[(String, Published)]) {
    for (id, event) in entries {
        let mut add = redis::cmd("XADD");
        add.arg(key).arg(id).arg("payload").arg(&event.body);
        add.exec_async(redis).await.expect("an id");
    }
}

async fn killed_at(point: &str, hit: usize) -> Vec<String> {
    let mut stage = Stage::new().await;
    let (url, key) = (exported("TEST_REDIS_URL"), stage.name().to_owned());
    stage.set("STREAM_URL", &url);
    stage.set("STREAM_KEYS", &key);
    let mut redis = connect(&url).await;
    let entries = entries(&key, batch(&MIX, MIX.len(), &stage.smtp), 1);
    add(&mut redis, &key, &entries).await;
    let wish = format!("{point}:{hit}");
    let mut doomed = stage.start(&[("USHER_CRASH_POINT", &wish)]);
    eventually(&format!("it dies at {wish}"), async || doomed.has_ended().then_some(())).await;
    let published: Vec<_> = entries.into_iter().map(|(_, event)| event).collect();
    let limits = Limits { parked: WINDOW, doubles: 0 };
    let judgement = stage.verdict(&published, vec![stage.start(&[])], limits).await;
    crate::say(format_args!("{wish:<26} {}", judgement.counts));
    let left: usize = redis::cmd("XLEN").arg(&key).query_async(&mut redis).await.expect("a length");
    let faults = judgement.faults.into_iter().map(|fault| format!("{wish}: {fault}"));
    faults.chain((left > 0).then(|| format!("{wish}: {left} entries are left"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_steps_of_the_stream_source_nothing_is_lost_or_sent_twice() {
    let cases =
        STREAM_SOURCE_POINTS.iter().map(|point| (*point, 1)).chain([("after_stream_publish", 5)]);
    let cases = cases.map(|(point, hit)| killed_at(point, hit));
    let faults = join_all(cases).await.concat();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_flushed_or_whose_redis_came_back_empty_is_read_again() {
    let mut stage = Stage::new().await;
    let mut daemon = Daemon::redis().await;
    let key = stage.name().to_owned();
    stage.set("STREAM_URL", &daemon.url);
    stage.set("STREAM_KEYS", &key);
    let published = batch(&MIX, 3 * MIX.len(), &stage.smtp);
    let all = entries(&key, published, 1);
    let instances = vec![stage.start(&[]), stage.start(&[])];
    let until_read = async |redis: &mut MultiplexedConnection, what| {
        let mut length = redis::cmd("XLEN");
        length.arg(&key);
        eventually(what, async || {
            (length.query_async::<usize>(redis).await.ok()? == 0).then_some(())
        })
        .await;
    };
    let (first, rest) = all.split_at(MIX.len());
    let (second, third) = rest.split_at(MIX.len());
    let mut redis = connect(&daemon.url).await;
    add(&mut redis, &key, first).await;
    until_read(&mut redis, "the first third is read").await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.expect("flushed");
    // Before the group is created again.
    add(&mut redis, &key, second).await;
    until_read(&mut redis, "the second third is read").await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.expect("flushed");
    daemon.kill();
    daemon.start().await;
    let mut redis = connect(&daemon.url).await;
    let loaded = async || redis::cmd("PING").exec_async(&mut redis.clone()).await.ok();
    eventually("Redis has read its log", loaded).await;
    add(&mut redis, &key, third).await;
    until_read(&mut redis, "the last third is read").await;
    let published: Vec<_> = all.into_iter().map(|(_, event)| event).collect();
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_read_while_the_broker_is_down_are_forwarded_by_the_next_instance() {
    let mut stage = Stage::new().await;
    let rabbitmq = stage.behind_a_proxy("RABBITMQ_URL").await;
    let (url, key) = (exported("TEST_REDIS_URL"), stage.name().to_owned());
    stage.set("STREAM_URL", &url);
    stage.set("STREAM_KEYS", &key);
    rabbitmq.turn(Weather::Reset);
    let entries = entries(&key, batch(&MIX, MIX.len(), &stage.smtp), 1);
    add(&mut connect(&url).await, &key, &entries).await;
    let until_tried = async |instance: &Usher| {
        let tries = || instance.log().contains("entries could not be forwarded, trying again");
        eventually("it tries", async || tries().then_some(())).await;
    };
    let mut first = stage.start(&[]);
    until_tried(&first).await;
    assert_eq!(first.terminate().await.code(), Some(0), "{}", first.log());
    let second = stage.start(&[]);
    until_tried(&second).await;
    rabbitmq.turn(Weather::Fair);
    let published: Vec<_> = entries.into_iter().map(|(_, event)| event).collect();
    let judgement = stage.verdict(&published, vec![second], Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}
