//! `usher demo`: the whole line on sample events, on one SQLite file, without any service.

mod channel;
mod reminders;
mod table;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use clap::Args;
use tokio_util::sync::CancellationToken;

use self::channel::{DemoChannel, Sent};
use super::{
    gallery,
    output::{print, progress},
};
use crate::{
    app::{
        Channels, Telemetry,
        configuration::{self, Configuration},
        embedded::{self, Embedded},
        pipeline,
    },
    broker::Handler,
    channel::{file::FileChannel, sms::SimulatedSms},
    config::{Environment, LogFormat},
    delivery::Pipeline,
    embedded::broker::{EmbeddedBroker, SOURCE},
    event::{self, Properties},
    failure::Failure,
    logging,
    routing::ChannelKind,
    template::source,
};

/// The environment is ignored, so that the demo is the same everywhere.
const SETTINGS: [(&str, &str); 6] = [
    ("SIMULATE", "always"),
    ("FROM_EMAIL", "tickets@example.com"),
    ("FROM_NAME", "Example Cinema"),
    ("ADMIN_EMAILS", "ana@example.org,admin@example.org"),
    ("RETRY_SCHEDULE", "300ms,700ms"),
    ("USHER_PEPPER", "demo"),
];

/// Events besides the samples: (title, body).
const FAILURES: [(&str, &str); 3] = [
    (
        "the mail server is busy twice",
        r#"{"event_id":"demo-busy-twice","event_type":"payment.failed","user_email":"busy@example.com",
           "booking_id":"BOOK-777","amount":"12.50","reason":"The card has expired"}"#,
    ),
    (
        "a variable is missing",
        r#"{"event_id":"demo-incomplete","event_type":"payment.success","user_email":"user@example.com",
           "booking_id":"BOOK-778"}"#,
    ),
    ("the event type is unknown", r#"{"event_id":"demo-poison","event_type":"no.such.type"}"#),
];

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Folder for mails, records and the gallery.
    #[arg(long, value_name = "DIR", default_value = "usher-demo")]
    out: PathBuf,
}

struct PublishedEvent {
    title: String,
    event_id: String,
}

pub(super) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let environment: Environment = SETTINGS.into_iter().collect();
    let loaded = configuration::load_with(None, &environment)?;
    // The failures of the demo are shown in its table.
    logging::init(LogFormat::Auto, "off")?;
    remove_last_demo(&args.out)?;
    print("usher demo: events in, mail out, a record of each, all in one folder\n");

    let store = embedded::open(&args.out, &loaded.settings)?;
    let samples = samples(&loaded);
    let sender = loaded.sender.clone();
    let sent = Sent::default();
    let (broker, audit, scheduler) =
        (store.broker.clone(), store.audit.clone(), store.scheduler.clone());
    let pipeline = pipeline(&loaded, &store, &args.out.join("mail"), &sent)?;
    let handler = pipeline::handler(pipeline.clone());

    let mut events = Vec::new();
    for (title, body) in &samples {
        // One by one, because several samples are about one booking and must keep their order.
        events.push(publish(&broker, title, body).await?);
        process(&broker, handler.clone(), 1).await?;
    }
    for (title, body) in FAILURES {
        events.push(publish(&broker, title, body).await?);
    }
    process(&broker, handler.clone(), FAILURES.len()).await?;
    let sent_before = sent.count();
    let (repeated, body) = &samples[0];
    publish(&broker, repeated, body).await?;
    process(&broker, handler, 1).await?;
    let sent_twice = sent.count() - sent_before;
    let (of_bookings, reminders_ok) = reminders::run(&broker, &pipeline, &scheduler).await?;
    events.extend(of_bookings);

    let records = audit.all().await?;
    table::print_outcomes(&events, &records);
    print(&format!("\n{repeated}, published a second time: {sent_twice} mails more\n"));
    let waiting = broker.waiting().await?;
    let messages = sent.take();
    let index = gallery::write(&args.out, "usher demo: the messages", &messages, &sender, false)
        .context("writing the gallery")?;
    print(&format!(
        "{} events: {}, {} dead letter, {} poison message, {} records, in {:.1} s",
        events.len() + 1,
        gallery::count(&messages),
        waiting.dead,
        waiting.poison,
        records.len(),
        started.elapsed().as_secs_f64()
    ));
    print(&format!("see the mails: {}", index.display()));
    let ok = sent_twice == 0
        && reminders_ok
        && waiting.dead == 1
        && waiting.poison == 1
        && waiting.to_process == 0;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes what an earlier demo wrote: its ledger knows every event, so nothing would be sent.
fn remove_last_demo(folder: &Path) -> Result<(), Failure> {
    if folder.exists() && !folder.join("usher.db").exists() && folder.read_dir()?.next().is_some() {
        let folder = folder.display();
        return Err(anyhow!("{folder} is not empty, and no demo has written it").into());
    }
    for name in ["usher.db", "usher.db-wal", "usher.db-shm", "index.html"] {
        if_exists(std::fs::remove_file(folder.join(name)))?;
    }
    for name in ["mail", "gallery"] {
        if_exists(std::fs::remove_dir_all(folder.join(name)))?;
    }
    Ok(())
}

fn if_exists(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every sample of every route once, in the order of a booking's life: (title, body).
fn samples(loaded: &Configuration) -> Vec<(String, String)> {
    let mut samples = Vec::new();
    let mut known = HashSet::new();
    let mut routes = loaded.routing.routes();
    routes.sort_by_key(|route| route.lifecycle);
    for route in routes {
        for (path, body) in source::samples(&loaded.files, &route.template) {
            if known.insert(event_id(body)) {
                let title = path.trim_end_matches(".json").replace("/samples/", ": ");
                samples.push((title, body.to_owned()));
            }
        }
    }
    samples
}

fn event_id(body: &str) -> String {
    let event = event::parse(body.as_bytes(), &Properties::default(), SOURCE);
    event.map(|event| event.id.value).unwrap_or_default()
}

fn pipeline(
    loaded: &Configuration,
    store: &Embedded,
    mail: &Path,
    sent: &Sent,
) -> Result<Arc<Pipeline>, Failure> {
    let files =
        FileChannel::new(loaded.sender.clone(), mail.to_owned(), Telemetry::default().health.smtp)?;
    let channel = |inner, kind| Arc::new(DemoChannel::new(inner, kind, sent.clone()));
    let channels = Channels {
        email: channel(Box::new(files), ChannelKind::Email),
        sms: channel(Box::new(SimulatedSms), ChannelKind::Sms),
    };
    Ok(pipeline::build(loaded, store.backends(), channels, Telemetry::default()))
}

async fn publish(
    broker: &EmbeddedBroker,
    title: &str,
    body: &str,
) -> Result<PublishedEvent, Failure> {
    broker.publish_event(body.as_bytes().to_vec()).await?;
    Ok(PublishedEvent { title: title.to_owned(), event_id: event_id(body) })
}

/// Processes events until the queue is empty.
async fn process(broker: &EmbeddedBroker, handler: Handler, events: usize) -> Result<(), Failure> {
    let input_ended = CancellationToken::new();
    input_ended.cancel();
    let never = CancellationToken::new();
    let work = broker.consume(handler, never.clone(), never, input_ended);
    tokio::pin!(work);
    let progress = progress("processing events", events as u64);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            done = &mut work => {
                done?;
                break;
            }
            _ = ticks.tick() => {
                let waiting = broker.waiting().await?.to_process;
                progress.set_position(progress.length().unwrap_or(0).saturating_sub(waiting as u64));
            }
        }
    }
    progress.finish_and_clear();
    Ok(())
}
