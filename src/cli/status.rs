//! `usher status`: what works and what waits where. A part that can't be read says so.

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use console::{Style, Term};
use jiff::Timestamp;

use super::{
    healthcheck,
    output::{Column, Table, paint, print, print_json, width},
};
use crate::{
    api::outbox::MongoRequests,
    app::configuration::{self, Configuration},
    audit::{Status, store::MongoAudit},
    broker::amqp::{self, DeadLetterQueue, DeadLetterReader, Topology},
    failure::{EXIT_UNAVAILABLE, Failure},
    ledger::redis::RedisLedger,
    logging,
    metrics::Metrics,
    routing::Identity,
    scheduler::mongo::MongoScheduler,
    status::{self, InstanceStatus, QueueStatus, StatusReport, Stores, age, short},
    supervisor::Supervisor,
};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print it again every SECONDS, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

struct StatusCli {
    configuration: Configuration,
    ledger: RedisLedger,
    /// Or why it can't be opened.
    mongodb: Result<(MongoAudit, MongoScheduler), String>,
}

pub(super) async fn run(config: Option<&Path>, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let configuration = configuration::load(config)?;
    let settings = &configuration.settings;
    logging::init_quiet(settings.log_format)?;
    let supervisor = Supervisor::default();
    let mongodb = configuration::open_audit(settings, Metrics::default(), &supervisor).await;
    let mongodb = mongodb.map_err(|failure| failure.to_string()).map(|audit| {
        let scheduler = MongoScheduler::new(audit.database(), &supervisor);
        (audit, scheduler)
    });
    let cli = StatusCli {
        ledger: configuration::open_ledger(settings, &supervisor)?,
        mongodb,
        configuration,
    };
    loop {
        // What is read to see how old a message is counts as a redelivery.
        let report = Box::pin(cli.report(args.watch.is_none())).await;
        if args.watch.is_some() && !args.json && Term::stdout().is_term() {
            let _ = Term::stdout().clear_screen();
        }
        match args.json {
            true => print_json(&report)?,
            false => print_report(&report),
        }
        let Some(seconds) = args.watch else {
            let is_whole = report.unread.is_empty();
            return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNAVAILABLE) });
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

impl StatusCli {
    async fn report(&self, with_ages: bool) -> StatusReport {
        let mongodb = self.mongodb.as_ref();
        let stores = Stores {
            ledger: &self.ledger,
            mongodb: mongodb.map(|(audit, scheduler)| (audit, scheduler)).map_err(Clone::clone),
        };
        let settings = &self.configuration.settings;
        let own = async { own(settings.http_listen?).await };
        let requests = async {
            let (audit, _) = mongodb.map_err(Clone::clone)?;
            let requests = MongoRequests::new(audit.database(), settings.audit_retention);
            requests.waiting().await.map_err(|error| error.to_string())
        };
        Box::pin(status::collect(stores, own, self.queues(with_ages), requests)).await
    }

    async fn queues(&self, with_ages: bool) -> anyhow::Result<Vec<QueueStatus>> {
        let settings = &self.configuration.settings;
        let topology = Topology::new(self.configuration.routing.queues(), &settings.retry_schedule);
        let depths = amqp::queue_depths(&settings.rabbitmq, &topology).await?;
        let mut queues: Vec<QueueStatus> = depths.into_iter().map(Into::into).collect();
        for dead in [DeadLetterQueue::Dead, DeadLetterQueue::Poison, DeadLetterQueue::Parked] {
            let found = queues.iter_mut().find(|queue| queue.name == dead.queue());
            if let Some(found) = found.filter(|it| with_ages && it.messages.unwrap_or(0) > 0) {
                found.oldest = self.oldest(dead).await?;
            }
        }
        Ok(queues)
    }

    /// When the event of the first message arrived. The message goes back to its place.
    async fn oldest(&self, queue: DeadLetterQueue) -> anyhow::Result<Option<Timestamp>> {
        let settings = &self.configuration.settings;
        let identity = Identity::new(settings.pepper.expose());
        let reader = DeadLetterReader::open(&settings.rabbitmq, queue).await?;
        let first = reader.next(&identity).await?;
        reader.close().await;
        Ok(first.and_then(|(message, _)| message.delivery_headers?.arrived_at))
    }
}

/// What the usher on this machine says of itself, if there is one.
async fn own(address: SocketAddr) -> Option<InstanceStatus> {
    let answer = healthcheck::ask(address, "/healthz").await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

fn print_report(report: &StatusReport) {
    print(&format!("status at {}", time(report.at)));
    let alarm = Style::new().red().bold();
    match report.alarms.as_slice() {
        [] => print("nothing needs attention"),
        alarms => alarms.iter().for_each(|text| print(paint(&format!("! {text}"), &alarm))),
    }
    if let Some(instances) = &report.instances {
        print_instances(report, instances);
    }
    if let Some(queues) = &report.queues {
        print_queues(report, queues);
    }
    print("");
    if let Some(planned) = &report.planned {
        let next = planned.next_due.map(|due| format!(", the next is due {}", time(due)));
        let overdue = planned.overdue;
        print(&format!(
            "planned: {}{}; overdue: {overdue}",
            planned.waiting,
            next.unwrap_or_default()
        ));
    }
    if let Some(retries) = &report.retries {
        let next = retries.next_due.map(|due| format!(", the next is due {}", time(due)));
        print(&format!("retries: {}{}", retries.waiting, next.unwrap_or_default()));
    }
    if let Some(requests) = report.requests {
        print(&format!("requests by HTTP that are not published yet: {requests}"));
    }
    if let Some(hour) = &report.last_hour {
        let share = hour.delivery_share.map(|share| format!("; {share:.1} % delivered"));
        let counts = hour.statuses.iter().map(|(status, count)| format!("{count} {status}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let counts = if counts.is_empty() { "nothing".to_owned() } else { counts };
        print(&format!("last hour: {counts}{}", share.unwrap_or_default()));
    }
}

fn print_instances(report: &StatusReport, instances: &[InstanceStatus]) {
    print("");
    let mut table = Table::new(
        &[
            Column::Whole("INSTANCE"),
            Column::Text("HOST"),
            Column::Whole("VERSION"),
            Column::Whole("STARTED (UTC)"),
            Column::Number("IN HAND"),
            Column::Number("OLDEST"),
            Column::Number("HELD"),
        ],
        width(),
    );
    for one in instances {
        let held: u64 = one.waiting.values().sum();
        let oldest = one.oldest_in_hand.map(|oldest| age(report.at.duration_since(oldest)));
        let cells = [
            short(&one.instance),
            &one.host,
            &one.version,
            &time(one.started),
            &one.in_hand.to_string(),
            oldest.as_deref().unwrap_or("-"),
            &held.to_string(),
        ];
        table.add(&cells, Style::new());
    }
    table.print();
    print("");
    let mut table = Table::new(
        &[
            Column::Whole("DEPENDENCY"),
            Column::Whole("INSTANCE"),
            Column::Whole("STATE"),
            Column::Whole("SINCE (UTC)"),
            Column::Text("WHY"),
        ],
        width(),
    );
    for one in instances {
        for (name, check) in &one.checks {
            let style = if check.status == "down" { Style::new().red() } else { Style::new() };
            let cells = [
                name,
                short(&one.instance),
                &check.status,
                &check.since.map_or("-".to_owned(), time),
                check.error.as_deref().unwrap_or_default(),
            ];
            table.add(&cells, style);
        }
    }
    table.print();
}

fn print_queues(report: &StatusReport, queues: &[QueueStatus]) {
    print("");
    let mut table = Table::new(
        &[
            Column::Whole("QUEUE"),
            Column::Whole("KIND"),
            Column::Number("MESSAGES"),
            Column::Number("LAST HOUR"),
            Column::Number("OLDEST"),
        ],
        width(),
    );
    for queue in queues {
        let messages = queue.messages.map_or("none".to_owned(), |count| count.to_string());
        let status = match queue.kind {
            "dead" => Some(Status::Failed),
            "poison" => Some(Status::Rejected),
            "parked" => Some(Status::Unknown),
            _ => None,
        };
        let came = status.filter(|_| report.last_hour.is_some());
        let came = came.map(|status| format!("+{}", report.in_last_hour(status)));
        let oldest = queue.oldest.map(|oldest| age(report.at.duration_since(oldest)));
        let cells = [
            queue.name.as_str(),
            queue.kind,
            &messages,
            came.as_deref().unwrap_or_default(),
            oldest.as_deref().unwrap_or_default(),
        ];
        table.add(&cells, Style::new());
    }
    table.print();
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
