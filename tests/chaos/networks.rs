//! The network to each of the four services in turn delays, falls silent, resets, cuts and half
//! closes, while events come in. usher recovers by itself.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    batch::{Kind, batch},
    oracle::Limits,
    proxy::{Proxy, Weather},
    stage::Stage,
};
use crate::support::{eventually, http::request, smtp::Phase};

/// How long each network condition lasts.
const SPELL: Duration = Duration::from_millis(2500);

const FORECAST: [Weather; 6] = [
    Weather::Latency(Duration::from_millis(150)),
    Weather::Blackhole,
    Weather::Reset,
    Weather::CutAfter(700),
    Weather::CutAfter(5000),
    Weather::HalfClose,
];

const TRAFFIC: [Kind; 6] =
    [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Low, Kind::Refused, Kind::Plain];

/// Mails that two instances can have in the SMTP window.
const WINDOW: usize = 8;

async fn through(service: &str, setting: &str, parked: usize) {
    let mut stage = Stage::new().await;
    let proxy = if setting == "SMTP_PORT" {
        let proxy = Proxy::before(&format!("127.0.0.1:{}", stage.smtp.port())).await;
        stage.set(setting, &proxy.address().port().to_string());
        proxy
    } else {
        stage.behind_a_proxy(setting).await
    };
    let published = batch(&TRAFFIC, 2 * TRAFFIC.len() * FORECAST.len(), &stage.smtp);
    stage.smtp.at(Phase::Dot).delay(Duration::from_millis(150));
    let mut handfuls = published.chunks(TRAFFIC.len());
    let instances = vec![stage.start(&[]), stage.start(&[])];
    for weather in FORECAST {
        // Some are in flight when the condition changes, some arrive later.
        for turned in [Weather::Fair, weather] {
            if let Some(handful) = handfuls.next() {
                stage.publish(handful).await;
            }
            proxy.turn(turned);
            if turned != Weather::Fair {
                tokio::time::sleep(SPELL).await;
            }
        }
        proxy.turn(Weather::Fair);
    }
    let limits = Limits { parked, doubles: 0 };
    let judgement = stage.verdict(&published, instances, limits).await;
    crate::say(format_args!("network to {service}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_rabbitmq_is_bad() {
    through("RabbitMQ", "RABBITMQ_URL", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_redis_is_bad() {
    through("Redis", "REDIS_URL", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_mongodb_is_bad() {
    through("MongoDB", "MONGODB_URI", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_the_mail_server_is_bad() {
    // Each change may fall between a dot and its reply.
    through("SMTP", "SMTP_PORT", 2 * FORECAST.len() * WINDOW).await;
}

/// The first of two addresses goes away under load, and stays away for an instance that starts then.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_address_of_rabbitmq_goes_away() {
    let mut stage = Stage::new().await;
    let url = stage.setting("RABBITMQ_URL").to_owned();
    let (login, place) = url.rsplit_once('@').expect("a login");
    let proxy = stage.behind_a_proxy("RABBITMQ_URL").await;
    stage.set("RABBITMQ_URL", &format!("{login}@{},{place}", proxy.address()));
    let published = batch(&TRAFFIC, 6 * TRAFFIC.len(), &stage.smtp);
    let mut handfuls = published.chunks(2 * TRAFFIC.len());
    let mut publish = async || stage.publish(handfuls.next().expect("a handful")).await;
    publish().await;
    let mut instances = vec![stage.start(&[])];
    eventually("some are over", async || (stage.over().await > 0).then_some(())).await;
    proxy.turn(Weather::Reset);
    publish().await;
    let over = stage.over().await;
    eventually("more are over", async || (stage.over().await > over).then_some(())).await;
    instances.push(stage.start(&[]));
    instances[1].until_listening().await;
    instances[1].until_ready().await;
    publish().await;
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    crate::say(format_args!("the second address of RabbitMQ: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

/// A network that drops everything gives no reset and no end of file. All hand-offs once
/// waited for ever behind one that had no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_given_up() {
    let mut stage = Stage::new().await;
    let proxy = stage.behind_a_proxy("RABBITMQ_URL").await;
    // Heartbeats would notice it after minutes.
    stage.set("RABBITMQ_URL", &format!("{}?heartbeat=0", stage.setting("RABBITMQ_URL")));
    let published = batch(&[Kind::Refused], 12, &stage.smtp);
    let (first, more) = published.split_at(1);
    let instances = vec![stage.start(&[])];
    stage.publish(first).await;
    let dead = async || (stage.over().await == 1).then_some(());
    eventually("the first is handed off", dead).await;
    let publishing = async || {
        let path = stage.management("vhosts", "connections");
        let answer = request("GET", &path, None).ok()?;
        let all: Vec<Value> = serde_json::from_str(&answer.body).ok()?;
        let named = |one: &&Value| {
            let name = one.pointer("/client_properties/connection_name").and_then(Value::as_str);
            name.is_some_and(|name| name.starts_with("usher publish"))
        };
        u16::try_from(all.iter().find(named)?.get("peer_port")?.as_u64()?).ok()
    };
    proxy
        .strand(eventually("the management shows the connection that publishes", publishing).await);
    stage.publish(more).await;
    let broker = stage.broker().await;
    let dead =
        async || (broker.depth("usher.dead").await as usize == published.len()).then_some(());
    eventually("all are handed off, by the same process", dead).await;
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

async fn all_silent(setting: &str) {
    let mut stage = Stage::new().await;
    // Heartbeats every 20 s would find it too, later.
    stage.set("RABBITMQ_URL", &format!("{}?heartbeat=5", stage.setting("RABBITMQ_URL")));
    let proxy = stage.behind_a_proxy(setting).await;
    let published = batch(&TRAFFIC, 4 * TRAFFIC.len(), &stage.smtp);
    let (first, more) = published.split_at(2 * TRAFFIC.len());
    let instances = vec![stage.start(&[])];
    stage.publish(first).await;
    eventually("some are over", async || (stage.over().await > 0).then_some(())).await;
    proxy.strand_all();
    stage.publish(more).await;
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    eventually("all are over", async || (stage.over().await == wanted).then_some(())).await;
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_to_rabbitmq_fall_silent() {
    all_silent("RABBITMQ_URL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_to_redis_fall_silent() {
    all_silent("REDIS_URL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_to_mongodb_fall_silent() {
    all_silent("MONGODB_URI").await;
}

/// One answer is lost on its connection, and everything else is well and stays so: all recording, and
/// then all mail, once waited for it for ever.
async fn one_answer_is_lost(setting: &str, request: &[u8]) {
    let mut stage = Stage::new().await;
    let proxy = stage.behind_a_proxy(setting).await;
    let published = batch(&TRAFFIC, 8 * TRAFFIC.len(), &stage.smtp);
    let (first, more) = published.split_at(2 * TRAFFIC.len());
    let instances = vec![stage.start(&[])];
    stage.publish(first).await;
    eventually("some are over", async || (stage.over().await > 0).then_some(())).await;
    proxy.swallow_answer_to(request);
    stage.publish(more).await;
    eventually("an answer is lost", async || proxy.has_swallowed().then_some(())).await;
    let began = Instant::now();
    let wanted: usize = published.iter().map(|event| event.deliveries.len()).sum();
    eventually("all are over", async || (stage.over().await == wanted).then_some(())).await;
    crate::say(format_args!("{setting}: recovered from a lost answer in {:?}", began.elapsed()));
    let judgement = stage.verdict(&published, instances, Limits::default()).await;
    assert!(judgement.faults.is_empty(), "{}", judgement.faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_never_answers_one_write_of_records() {
    one_answer_is_lost("MONGODB_URI", b"\x02insert\0\x0b\0\0\0deliveries\0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_never_answers_one_read_of_bookings() {
    one_answer_is_lost("MONGODB_URI", b"\x02find\0\x09\0\0\0bookings\0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_never_answers_one_call_of_the_ledger() {
    one_answer_is_lost("REDIS_URL", b"EVALSHA").await;
}
