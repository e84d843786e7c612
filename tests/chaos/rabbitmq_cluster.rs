//! Three nodes of RabbitMQ, with all queues led by the one that usher is connected to.

use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};

use super::{
    batch::{Kind, Published, batch},
    daemon::Daemon,
    oracle::Limits,
    stage::Stage,
};
use crate::support::{
    broker::Broker, events::BOOKINGS, eventually, http::request, smtp::Phase, usher::Usher,
    world::Services,
};

const TRAFFIC: [Kind; 4] = [Kind::Plain, Kind::Later, Kind::FanOut, Kind::Refused];
const EVENTS: usize = 120;

/// How long a node is paused: as long as it takes to miss heartbeats.
const PAUSE: Duration = Duration::from_secs(20);

struct Cluster {
    stage: Stage,
    /// The first is that of the test's own connections; usher uses the second as long as it can.
    nodes: [Daemon; 3],
    published: Vec<Published>,
    instances: Vec<Usher>,
}

impl Cluster {
    /// Half of the events are published, and some are over.
    async fn under_load() -> Self {
        let nodes = Daemon::rabbitmq_cluster::<3>().await;
        // Nodes that have just met take their time for the first one.
        let made = format!("{}/api/vhosts/first", nodes[0].management);
        let is_made =
            async || request("PUT", &made, None).is_ok_and(|it| it.status < 300).then_some(());
        eventually("the cluster makes a virtual host", is_made).await;
        let services = Services {
            amqp: nodes[0].url.clone(),
            management: nodes[0].management.clone(),
            ..Services::shared()
        };
        let mut stage = Stage::on(services).await;
        let vhost = stage.name().to_owned();
        let [test, first, second] = [0, 1, 2].map(|node: usize| nodes[node].address());
        let host = |address: &str| address.trim_start_matches("guest:guest@").to_owned();
        let hosts = format!("{},{},{}", host(first), host(second), host(test));
        let url = stage.setting("RABBITMQ_URL").replace(&host(test), &hosts);
        stage.set("RABBITMQ_URL", &format!("{url}?heartbeat=5"));
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let leader = Broker::connect(&format!("{}/{vhost}", nodes[1].url)).await;
        leader.declare_with(BOOKINGS, arguments).await;
        stage.is_declared();
        stage.smtp.at(Phase::Dot).delay(Duration::from_millis(100));
        let published = batch(&TRAFFIC, EVENTS, &stage.smtp);
        let instances = vec![stage.start(&[]), stage.start(&[])];
        let cluster = Self { stage, nodes, published, instances };
        cluster.publish(..EVENTS / 2).await;
        let some = async || (cluster.stage.over().await > 5).then_some(());
        eventually("some are over", some).await;
        cluster
    }

    async fn publish(
        &self,
        events: impl std::slice::SliceIndex<[Published], Output = [Published]>,
    ) {
        self.stage.publish(&self.published[events]).await;
    }

    async fn until_logged(&self, message: &str, dependency: &str) {
        let of = |instance: &Usher| {
            let lines = instance.find_log(message);
            lines.iter().any(|line| line["dependency"] == dependency)
        };
        let logged = async || self.instances.iter().all(of).then_some(());
        eventually(message, logged).await;
    }

    async fn judged(self, what: &str) {
        let began = Instant::now();
        let judgement =
            self.stage.verdict(&self.published, self.instances, Limits::default()).await;
        crate::say(format_args!(
            "RabbitMQ {what}: {}, all over after {:?}",
            judgement.counts,
            began.elapsed()
        ));
        assert!(judgement.faults.is_empty(), "{what}\n{}", judgement.faults.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_all_queues_is_killed() {
    let mut cluster = Cluster::under_load().await;
    cluster.publish(EVENTS / 2..).await;
    cluster.nodes[1].kill();
    // The classic source queues that usher has declared there are away, and all others go on.
    let queue = "queue:notification.account_events";
    cluster.until_logged("dependency is down, waiting for it", queue).await;
    cluster.instances[0].until_listening().await;
    let metrics = cluster.instances[0].get("/metrics").body;
    assert!(
        metrics.contains(&format!("usher_dependency_up{{dependency=\"{queue}\"}} 0")),
        "{metrics}"
    );
    assert_eq!(cluster.instances[0].get("/readyz").status, 200);
    let wanted: usize = cluster.published.iter().map(|event| event.deliveries.len()).sum();
    let all = async || (cluster.stage.over().await == wanted).then_some(());
    eventually("all are over without that node", all).await;
    cluster.nodes[1].start().await;
    cluster.until_logged("dependency is up", queue).await;
    cluster.judged("leader killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_all_queues_is_paused() {
    let cluster = Cluster::under_load().await;
    cluster.publish(EVENTS / 2..).await;
    cluster.nodes[1].signal("STOP");
    tokio::time::sleep(PAUSE).await;
    cluster.nodes[1].signal("CONT");
    cluster.judged("leader paused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_is_started_again_in_turn() {
    let mut cluster = Cluster::under_load().await;
    for (turn, node) in [1, 2, 0].into_iter().enumerate() {
        cluster.nodes[node].terminate().await;
        cluster.nodes[node].start().await;
        let share = EVENTS / 6;
        cluster.publish(EVENTS / 2 + turn * share..EVENTS / 2 + (turn + 1) * share).await;
    }
    cluster.judged("restarted in turn").await;
}

/// The node pauses itself, as `deploy/rabbitmq/cluster.conf` has it, and its clients go on elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_all_queues_is_cut_off_from_the_others() {
    let cluster = Cluster::under_load().await;
    cluster.publish(EVENTS / 2..).await;
    let others =
        format!("['{}', '{}']", cluster.nodes[0].node_name(), cluster.nodes[2].node_name());
    let each = |call: &str| format!("[begin {call} end || Node <- {others}], ok.");
    cluster.nodes[1].evaluate(&each("erlang:set_cookie(Node, none), erlang:disconnect_node(Node)"));
    tokio::time::sleep(PAUSE).await;
    cluster.nodes[1].evaluate(&each("erlang:set_cookie(Node, erlang:get_cookie())"));
    cluster.judged("leader cut off").await;
}
