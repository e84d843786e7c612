//! Redis as it is run: it refuses for a while, its primary changes, and its address moves. usher says why
//! it waits, and goes on by itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use redis::{FromRedisValue, TlsCertificates, Value};

use super::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{
    eventually,
    smtp::ClosedPort,
    usher::Usher,
    world::{Services, certificate},
};

/// From a Redis that works to the next mail. Two seconds are meant; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

/// How long Redis refuses: longer than the first waits between two tries.
const SPELL: Duration = Duration::from_secs(3);

fn client(url: &str) -> redis::Client {
    if !url.starts_with("rediss:") {
        return redis::Client::open(url).expect("a URL");
    }
    let ca = std::fs::read(certificate("ca.pem")).expect("the authority");
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca) };
    redis::Client::build_with_tls(url, certificates).expect("a URL")
}

pub(crate) async fn ask<T: FromRedisValue>(url: &str, command: &str) -> T {
    let mut connection = client(url).get_multiplexed_async_connection().await.expect("a server");
    let mut words = command.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(&mut connection).await.expect("an answer")
}

pub(crate) async fn order(url: &str, command: &str) {
    ask::<Value>(url, command).await;
}

/// For a command that Redis does not answer for a while.
fn order_in_background(url: &str, command: redis::Cmd) {
    let client = client(url);
    tokio::spawn(async move {
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
        command.query_async::<Value>(&mut connection).await.ok();
    });
}

async fn until_accepted(stage: &Stage, count: usize) {
    let all = async || (stage.smtp.accepted().len() >= count).then_some(());
    eventually(&format!("{count} mails are accepted"), all).await;
}

async fn judged(what: &str, stage: &Stage, published: &[Published], with: Vec<Usher>) {
    let judgement = stage.verdict(published, with, Limits::default()).await;
    crate::say(format_args!("{what}: {}", judgement.counts));
    assert!(judgement.faults.is_empty(), "{what}\n{}", judgement.faults.join("\n"));
}

/// A mail goes out, Redis refuses, the next mail waits with a reason that everybody can see, Redis is
/// healed, and the mail goes out.
async fn refuses(
    reason: &str,
    redis: &Daemon,
    make_sick: impl AsyncFnOnce(),
    heal: impl AsyncFnOnce(),
) {
    let stage = Stage::on(Services { redis: redis.url.clone(), ..Services::shared() }).await;
    let published = batch(&[Kind::Plain], 2, &stage.smtp);
    let mut instance = stage.start(&[]);
    instance.until_listening().await;
    stage.publish(&published[..1]).await;
    until_accepted(&stage, 1).await;
    make_sick().await;
    stage.publish(&published[1..]).await;
    let began = Instant::now();
    eventually(&format!("the reason is {reason}"), async || {
        let answer = instance.get("/readyz?verbose");
        let line = answer.body.lines().find(|line| line.starts_with("[-] redis "))?;
        (answer.status == 503 && line.contains(reason)).then_some(())
    })
    .await;
    eventually("the log has the reason", async || instance.log().contains(reason).then_some(()))
        .await;
    let checked = stage.command(&["check"]).await;
    let line = checked.lines().find(|line| line.starts_with("FAILED   redis:"));
    assert!(line.is_some_and(|line| line.contains(reason)), "{checked}");
    tokio::time::sleep(SPELL.saturating_sub(began.elapsed())).await;
    assert_eq!(stage.smtp.accepted().len(), 1, "nothing is sent without the ledger");
    heal().await;
    let healthy = Instant::now();
    until_accepted(&stage, 2).await;
    let took = healthy.elapsed();
    crate::say(format_args!("{reason}: the next mail {took:?} after Redis was well"));
    assert!(took < SOON, "{took:?}");
    eventually("usher is ready", async || (instance.get("/readyz").status == 200).then_some(()))
        .await;
    judged(reason, &stage, &published, vec![instance]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_out_of_memory() {
    let redis = Daemon::redis().await;
    let full = async || order(&redis.url, "CONFIG SET maxmemory 1").await;
    let room = async || order(&redis.url, "CONFIG SET maxmemory 0").await;
    refuses("OOM", &redis, full, room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_can_not_save() {
    let redis = Daemon::redis_where(&["--save", "3600 1"]).await;
    let in_the_way = redis.data().join("dump.rdb");
    let save = async |wanted: &str| {
        order(&redis.url, "BGSAVE").await;
        told(&redis.url, "persistence", &format!("rdb_last_bgsave_status:{wanted}")).await;
    };
    let full = async || {
        std::fs::create_dir(&in_the_way).expect("a folder");
        save("err").await;
    };
    let room = async || {
        std::fs::remove_dir(&in_the_way).expect("the folder");
        save("ok").await;
    };
    refuses("MISCONF", &redis, full, room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_busy_with_a_script() {
    let redis = Daemon::redis_where(&["--busy-reply-threshold", "100"]).await;
    let busy = async || {
        let mut endless = redis::cmd("EVAL");
        endless.arg("while true do end").arg(0);
        order_in_background(&redis.url, endless);
    };
    let killed = async || order(&redis.url, "SCRIPT KILL").await;
    refuses("BUSY", &redis, busy, killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_loads_its_data() {
    let often = ["--loading-process-events-interval-bytes", "1024"];
    let options = ["--enable-debug-command", "yes", often[0], often[1]];
    let redis = Daemon::redis_where(&options).await;
    let load = async || {
        order(&redis.url, "DEBUG POPULATE 10000").await;
        order(&redis.url, "CONFIG SET key-load-delay 1000").await;
        let mut reload = redis::cmd("DEBUG");
        reload.arg("RELOAD");
        order_in_background(&redis.url, reload);
        told(&redis.url, "persistence", "loading:1").await;
    };
    let loaded = async || told(&redis.url, "persistence", "loading:0").await;
    refuses("LOADING", &redis, load, loaded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_lost_its_replicas() {
    let redis = Daemon::redis().await;
    let lost = async || order(&redis.url, "CONFIG SET min-replicas-to-write 1").await;
    let found = async || order(&redis.url, "CONFIG SET min-replicas-to-write 0").await;
    refuses("NOREPLICAS", &redis, lost, found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_a_replica_for_a_while() {
    let (redis, nobody) = (Daemon::redis().await, ClosedPort::take());
    let demotion = format!("REPLICAOF 127.0.0.1 {}", nobody.port());
    let demoted = async || order(&redis.url, &demotion).await;
    let promoted = async || order(&redis.url, "REPLICAOF NO ONE").await;
    refuses("READONLY", &redis, demoted, promoted).await;
}

/// Waits until this section of INFO has this line.
pub(crate) async fn told(url: &str, section: &str, line: &str) {
    let told = async || {
        let text: String = ask(url, &format!("INFO {section}")).await;
        text.lines().any(|it| it == line).then_some(())
    };
    eventually(line, told).await;
}

/// A primary, and a replica that has all of its data.
async fn pair() -> (Daemon, Daemon) {
    let (primary, replica) = (Daemon::redis().await, Daemon::redis().await);
    order(&replica.url, &following(&primary)).await;
    told(&replica.url, "replication", "master_link_status:up").await;
    (primary, replica)
}

pub(crate) fn following(primary: &Daemon) -> String {
    format!("REPLICAOF {}", primary.address().replace(':', " "))
}

/// Waits until this many clients use a server.
pub(crate) async fn until_used_by(server: &Daemon, clients: usize) {
    let use_it = async || {
        let text: String = ask(&server.url, "CLIENT LIST").await;
        let of_usher = |line: &&str| line.contains("flags=N") && !line.contains("cmd=client");
        (text.lines().filter(of_usher).count() >= clients).then_some(())
    };
    eventually("all instances use the new server", use_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_a_failover_would_cost() {
    let (primary, _replica) = pair().await;
    let checked = async |url: &str| {
        let mut stage =
            Stage::on(Services { redis: primary.url.clone(), ..Services::shared() }).await;
        stage.set("REDIS_URL", url);
        let checked = stage.command(&["check"]).await;
        let line = checked
            .lines()
            .find(|line| line.starts_with("ok       redis: "))
            .map(ToOwned::to_owned);
        line.unwrap_or(checked)
    };
    let line = checked(&primary.url).await;
    assert!(line.contains("no min-replicas-to-write"), "{line}");
    order(&primary.url, "CONFIG SET min-replicas-to-write 1").await;
    let line = checked(&primary.url).await;
    assert_eq!(line, "ok       redis: answers");
    order(&primary.url, "ACL SETUSER blind on nopass allkeys allchannels +@all -info").await;
    let line = checked(&primary.url.replace("//", "//blind:any@")).await;
    assert!(line.contains("lacks +info"), "{line}");
}

/// An address moves to another server while the one before lives: as a replica, or as if nothing were.
async fn an_address_moves(old_is_demoted: bool) {
    let (old, new) = pair().await;
    let services = Services { redis: old.url.clone(), ..Services::shared() };
    let mut stage = Stage::on(services).await;
    let address = stage.behind_a_proxy("REDIS_URL").await;
    let published = batch(&[Kind::Plain, Kind::FanOut], 40, &stage.smtp);
    let (first, more) = published.split_at(20);
    let instances = vec![stage.start(&[]), stage.start(&[])];
    stage.publish(first).await;
    let count = first.iter().map(|event| event.deliveries.len()).sum::<usize>();
    until_accepted(&stage, count).await;
    order(&new.url, "REPLICAOF NO ONE").await;
    address.lead_to(new.address());
    if old_is_demoted {
        order(&old.url, &following(&new)).await;
    }
    let healthy = Instant::now();
    stage.publish(more).await;
    until_accepted(&stage, count + 1).await;
    let mailed = healthy.elapsed();
    until_used_by(&new, instances.len()).await;
    let moved = healthy.elapsed();
    crate::say(format_args!(
        "the address moved, the old server demoted: {old_is_demoted}: next mail {mailed:?}, moved {moved:?}"
    ));
    assert!(mailed < SOON && moved < 3 * SOON, "{mailed:?} {moved:?}");
    judged("the address moved", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_by_its_address() {
    an_address_moves(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_by_its_address_and_the_old_server_does_not_know() {
    an_address_moves(false).await;
}

/// Of several addresses the primary's is taken, whichever it is.
#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_between_two_addresses() {
    let (mut old, new) = pair().await;
    let stage = two_addresses(&old, &new).await;
    let published = batch(&[Kind::Plain, Kind::FanOut], 40, &stage.smtp);
    let (first, more) = published.split_at(20);
    let instances = vec![stage.start(&[])];
    stage.publish(first).await;
    let count = first.iter().map(|event| event.deliveries.len()).sum::<usize>();
    until_accepted(&stage, count).await;
    old.kill();
    stage.publish(more).await;
    tokio::time::sleep(SPELL).await;
    order(&new.url, "REPLICAOF NO ONE").await;
    let healthy = Instant::now();
    until_accepted(&stage, count + 1).await;
    let took = healthy.elapsed();
    crate::say(format_args!("two addresses: the next mail {took:?} after the promotion"));
    assert!(took < SOON, "{took:?}");
    judged("two addresses", &stage, &published, instances).await;
}

async fn two_addresses(old: &Daemon, new: &Daemon) -> Stage {
    let mut stage = Stage::on(Services { redis: old.url.clone(), ..Services::shared() }).await;
    // The replica first.
    stage.set("REDIS_URL", &format!("redis://{},{}/0", new.address(), old.address()));
    stage
}

const PASSWORD: &str = "p%?&:";
const PASSWORD_IN_URL: &str = "p%25%3F%26%3A";

/// In the file, where the hash of a password belongs.
const NO_HASH: &str = "#0000000000000000000000000000000000000000000000000000000000000000";

fn lines_of(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|line| !line.starts_with('#'))
}

/// The files in `deploy/`: three servers, and three Sentinels of which one is down. The primary is killed, or lives on as a replica.
async fn sentinels_fail_over(scheme: &str, is_killed: bool) {
    let [pem, key, ca] = ["server.pem", "server.key", "ca.pem"].map(certificate);
    let tls = ["tls-cert-file", &pem, "tls-key-file", &key, "tls-ca-cert-file", &ca];
    let tls = [&tls[..], &["tls-auth-clients", "no", "tls-replication", "yes"]].concat();
    let tls: Vec<(&str, &str)> = match scheme {
        "rediss" => tls.chunks(2).map(|option| (option[0], option[1])).collect(),
        _ => Vec::new(),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let acl = folder.path().join("users.acl").display().to_string();
    let users =
        include_str!("../../deploy/redis/users.acl").replace(NO_HASH, &format!(">{PASSWORD}"));
    let admin = format!("user admin on >{PASSWORD} allkeys allchannels allcommands");
    std::fs::write(&acl, format!("{users}{admin}\n")).expect("a file in a folder of ours");
    let options = lines_of(include_str!("../../deploy/redis/replication.conf"))
        .map(|line| line.replace("/etc/redis/users.acl", &acl).replace("PASSWORD", PASSWORD));
    let mut options: Vec<String> = options.collect();
    options.extend(tls.iter().map(|(name, value)| format!("{name} {value}")));
    let options: Vec<String> = options
        .iter()
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(name, value)| [format!("--{name}"), value.to_owned()])
        .collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut old = Daemon::redis_where(&options).await;
    let replicas = [Daemon::redis_where(&options).await, Daemon::redis_where(&options).await];
    let url = |server: &Daemon| format!("{scheme}://admin:{PASSWORD_IN_URL}@{}", server.address());
    for replica in &replicas {
        order(&url(replica), &following(&old)).await;
        told(&url(replica), "replication", "master_link_status:up").await;
    }
    let mut lines = vec!["bind 127.0.0.1".to_owned()];
    let watched = old.address().replace(':', " ");
    lines.extend(lines_of(include_str!("../../deploy/redis/sentinel.conf")).map(|line| {
        line.replace("redis-1.example.net 6379", &watched)
            .replace("PASSWORD", PASSWORD)
            .replace("usher 5000", "usher 1000")
            .replace("usher 60000", "usher 5000")
    }));
    lines.extend(tls.iter().map(|(name, value)| format!("{name} {value}")));
    let sentinels = [Daemon::sentinel(&lines).await, Daemon::sentinel(&lines).await];
    let sentinel_url =
        |server: &Daemon| format!("{scheme}://:{PASSWORD_IN_URL}@{}", server.address());
    for sentinel in &sentinels {
        let known = async || {
            let known: HashMap<String, String> =
                ask(&sentinel_url(sentinel), "SENTINEL MASTER usher").await;
            (known["num-slaves"] == "2" && known["num-other-sentinels"] == "1").then_some(())
        };
        eventually("the Sentinels know all servers", known).await;
    }
    let mut stage = Stage::on(Services { redis: old.url.clone(), ..Services::shared() }).await;
    let (nobody, [one, other]) = (ClosedPort::take(), &sentinels);
    let addresses = format!("127.0.0.1:{},{},{}", nobody.port(), one.address(), other.address());
    let options = format!("sentinel_password={PASSWORD_IN_URL}");
    let redis_url =
        format!("{scheme}+sentinel://usher:{PASSWORD_IN_URL}@{addresses}/usher/0?{options}");
    stage.set("REDIS_URL", &redis_url);
    if scheme == "rediss" {
        stage.set("REDIS_CA_FILE", &ca);
    }
    let checked = stage.command(&["check"]).await;
    assert!(checked.contains("ok       redis: answers"), "{checked}");
    let published = batch(&[Kind::Plain, Kind::FanOut], 40, &stage.smtp);
    let (first, more) = published.split_at(20);
    let instances = vec![stage.start(&[]), stage.start(&[])];
    stage.publish(first).await;
    let count = first.iter().map(|event| event.deliveries.len()).sum::<usize>();
    until_accepted(&stage, count).await;
    match is_killed {
        true => old.kill(),
        false => order(&sentinel_url(one), "SENTINEL FAILOVER usher").await,
    }
    stage.publish(more).await;
    let promoted = async || {
        let (_, port): (String, String) =
            ask(&sentinel_url(one), "SENTINEL GET-MASTER-ADDR-BY-NAME usher").await;
        (!old.address().ends_with(&format!(":{port}"))).then_some(())
    };
    eventually("a replica is promoted", promoted).await;
    let healthy = Instant::now();
    until_accepted(&stage, count + 1).await;
    let took = healthy.elapsed();
    crate::say(format_args!("{scheme}+sentinel: the next mail {took:?} after the promotion"));
    assert!(took < SOON, "{took:?}");
    judged("Sentinels fail over", &stage, &published, instances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_by_sentinels_after_a_kill() {
    sentinels_fail_over("redis", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_by_sentinels_with_tls_on_request() {
    sentinels_fail_over("rediss", false).await;
}
