//! `usher demo`: the whole line on sample events, with no service at all.

mod reminders;

use std::{
    collections::HashMap,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    args::DemoArgs,
    gallery::{self, Shown},
    print,
};
use crate::{
    app::{
        build::{self, Parts},
        embedded::{self, Embedded},
        load::{self, Loaded},
    },
    audit::{Record, Smtp, Status},
    broker::Handler,
    channel::{Channel, Outcome, Outgoing, Slot, file::FileChannel, sms::SimulatedSms},
    config::Environment,
    delivery::Pipeline,
    event::{self, Properties},
    failure::Failure,
    health::Health,
    metrics::Metrics,
    routing::ChannelKind,
    template::source,
    trace::Tracer,
};

/// The demo is the same everywhere, whatever the environment says.
const SETTINGS: [(&str, &str); 6] = [
    ("SIMULATE", "always"),
    ("FROM_EMAIL", "tickets@example.com"),
    ("FROM_NAME", "Example Cinema"),
    ("ADMIN_EMAILS", "ana@example.org,admin@example.org"),
    ("RETRY_SCHEDULE", "300ms,700ms"),
    ("USHER_PEPPER", "demo"),
];

/// Its mail server answers twice that it is busy.
const BUSY_TWICE: &str = r#"{"event_id":"demo-busy-twice","event_type":"payment.failed","user_email":"busy@example.com",
    "booking_id":"BOOK-777","amount":"12.50","reason":"The card has expired"}"#;

/// Events that are no samples: (what happens, body).
const OTHERS: [(&str, &str); 3] = [
    ("the mail server is busy twice", BUSY_TWICE),
    (
        "a variable is missing",
        r#"{"event_id":"demo-incomplete","event_type":"payment.success","user_email":"user@example.com","booking_id":"BOOK-778"}"#,
    ),
    ("nobody knows this type", r#"{"event_id":"demo-poison","event_type":"no.such.type"}"#),
];

struct Fed {
    title: String,
    event_id: String,
}

pub(crate) async fn demo(_: Option<&Path>, args: DemoArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let environment: Environment = SETTINGS.into_iter().collect();
    let loaded = load::load_with(None, &environment)?;
    quiet_logs_for_demo();
    start_afresh(&args.out)?;
    print("usher demo: events in, mail out, a record of each, nothing but this folder needed\n");

    let store = embedded::open(&args.out, &loaded.settings)?;
    let samples = samples(&loaded);
    let sender = loaded.sender.clone();
    let mails = Arc::new(Mutex::new(Vec::new()));
    let (broker, audit, scheduler) =
        (store.broker.clone(), store.audit.clone(), store.scheduler.clone());
    let pipeline = build(loaded, store, &args.out.join("mail"), &mails)?;
    let handler = build::handler(pipeline.clone());

    let mut fed = Vec::new();
    for (title, body) in &samples {
        fed.push(Fed { title: title.clone(), event_id: event_id(body) });
        broker.publish_event(body.clone().into_bytes()).await?;
        // Several are about one booking, and side by side one might overtake the other.
        drain(&broker, handler.clone(), 1).await?;
    }
    for (title, body) in OTHERS {
        fed.push(Fed { title: title.to_owned(), event_id: event_id(body) });
        broker.publish_event(body.to_owned().into_bytes()).await?;
    }
    drain(&broker, handler.clone(), OTHERS.len()).await?;
    let sent_before = count(&mails);
    // The same event again: it is known, so nothing goes out.
    let again = &samples[0];
    broker.publish_event(again.1.clone().into_bytes()).await?;
    drain(&broker, handler, 1).await?;
    let sent_twice = count(&mails) - sent_before;
    let (played, as_played) = reminders::play(&broker, &pipeline, &scheduler).await?;
    fed.extend(played);

    let records = audit.all().await?;
    print(&table(&fed, &records));
    print(&format!("{}, published a second time: {sent_twice} mails more\n", again.0));
    let waiting = broker.waiting().await?;
    let mails = std::mem::take(&mut *mails.lock().unwrap_or_else(PoisonError::into_inner));
    let index = gallery::write(&args.out, "usher demo: the mails", &mails, &sender, false)
        .context("writing the gallery")?;
    print(&format!(
        "{} events: {}, {} dead letter, {} poison message, {} records, in {:.1} s",
        fed.len() + 1,
        gallery::count(&mails),
        waiting.dead,
        waiting.poison,
        records.len(),
        started.elapsed().as_secs_f64()
    ));
    print(&format!("see the mails: {}", index.display()));
    let as_expected = sent_twice == 0
        && as_played
        && waiting.dead == 1
        && waiting.poison == 1
        && waiting.to_process == 0;
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What went wrong on purpose is shown in the table, not as log lines.
fn quiet_logs_for_demo() {
    crate::logging::init(crate::config::LogFormat::Auto, "off");
}

/// An earlier demo's ledger would know every event. Only what a demo made is removed.
fn start_afresh(folder: &Path) -> Result<(), Failure> {
    if folder.exists() && !folder.join("usher.db").exists() && folder.read_dir()?.next().is_some() {
        return Err(anyhow::anyhow!(
            "{} is not empty and was not made by a demo",
            folder.display()
        )
        .into());
    }
    for name in ["usher.db", "usher.db-wal", "usher.db-shm", "index.html"] {
        remove(std::fs::remove_file(folder.join(name)))?;
    }
    for name in ["mail", "gallery"] {
        remove(std::fs::remove_dir_all(folder.join(name)))?;
    }
    Ok(())
}

fn remove(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every sample of every route, once, in the order of a booking's life.
fn samples(loaded: &Loaded) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut routes = loaded.routing.routes();
    routes.sort_by_key(|route| route.lifecycle);
    for route in routes {
        for (path, text) in source::samples(&loaded.files, &route.template) {
            if seen.insert(event_id(text)) {
                let title = path.trim_end_matches(".json").replace("/samples/", ": ");
                found.push((title, text.to_owned()));
            }
        }
    }
    found
}

fn event_id(body: &str) -> String {
    event::parse(body.as_bytes(), &Properties::default(), crate::embedded::broker::SOURCE)
        .map(|event| event.id.value)
        .unwrap_or_default()
}

fn build(
    loaded: Loaded,
    store: Embedded,
    mail: &Path,
    mails: &Arc<Mutex<Vec<Shown>>>,
) -> Result<Arc<Pipeline>, Failure> {
    let files = FileChannel::new(loaded.sender.clone(), mail.to_owned())?;
    let channel = |inner, kind| {
        let (mails, refusals) = (mails.clone(), Arc::default());
        Arc::new(DemoChannel { inner, kind, mails, refusals })
    };
    let health = Health::default();
    let parts = Parts {
        instance: store.instance,
        ledger: store.ledger,
        audit: store.audit,
        scheduler: store.scheduler,
        email: channel(Box::new(files), ChannelKind::Email),
        sms: channel(Box::new(SimulatedSms), ChannelKind::Sms),
        broker: Arc::new(store.broker),
        health,
        metrics: Metrics::default(),
        tracer: Tracer::default(),
    };
    Ok(build::pipeline(loaded, parts))
}

async fn drain(
    broker: &crate::embedded::broker::EmbeddedBroker,
    handler: Handler,
    events: usize,
) -> Result<(), Failure> {
    use std::io::{IsTerminal, Write};
    let ended = CancellationToken::new();
    ended.cancel();
    let never = CancellationToken::new();
    let work = broker.consume(handler, never.clone(), never, ended);
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    loop {
        tokio::select! {
            done = &mut work => {
                done?;
                break;
            }
            _ = ticks.tick() => {
                if std::io::stdout().is_terminal() {
                    let waiting = broker.waiting().await?.to_process;
                    let _ = write!(std::io::stdout(), "\r{waiting:3} of {events} events still under way ");
                    let _ = std::io::stdout().flush();
                }
            }
        }
    }
    if std::io::stdout().is_terminal() {
        let _ = write!(std::io::stdout(), "\r\x1b[K");
    }
    Ok(())
}

fn count(mails: &Mutex<Vec<Shown>>) -> usize {
    mails.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// A line for each delivery of each event: what happened, attempt by attempt.
fn table(fed: &[Fed], records: &[Record]) -> String {
    let mut by_event: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records {
        by_event.entry(&record.event.id).or_default().push(record);
    }
    let mut rows = vec![[
        "event".to_owned(),
        "to".to_owned(),
        "attempts".to_owned(),
        "what happened".to_owned(),
    ]];
    for event in fed {
        let mut deliveries: Vec<(&str, Vec<&Record>)> = Vec::new();
        for record in by_event.get(event.event_id.as_str()).into_iter().flatten() {
            let id = record.delivery_id.as_str();
            match deliveries.iter_mut().find(|(known, _)| *known == id) {
                Some((_, records)) => records.push(record),
                None => deliveries.push((id, vec![record])),
            }
        }
        if deliveries.is_empty() {
            rows.push([event.title.clone(), String::new(), "0".to_owned(), "NO RECORD".to_owned()]);
        }
        for (_, records) in deliveries {
            let Some(last) = records.iter().max_by_key(|record| (record.attempt, record.is_final))
            else {
                continue;
            };
            let happened = match (&last.error, last.status) {
                (_, Status::Sent) if last.attempt > 1 => {
                    format!("sent after {} refusals", last.attempt - 1)
                }
                (Some(error), status) => format!("{}: {}", status.as_str(), error.message),
                (None, status) => status.as_str().to_owned(),
            };
            rows.push([
                event.title.clone(),
                last.recipient.clone(),
                last.attempt.to_string(),
                happened,
            ]);
        }
    }
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second, third) = (width(0), width(1), width(2));
    let lines = rows.iter().map(|[event, to, attempts, happened]| {
        format!("{event:first$}  {to:second$}  {attempts:>third$}  {happened}\n")
    });
    lines.collect()
}

/// A channel behind a server that is busy twice for one recipient.
struct DemoChannel {
    inner: Box<dyn Channel>,
    kind: ChannelKind,
    mails: Arc<Mutex<Vec<Shown>>>,
    refusals: Arc<Mutex<u32>>,
}

struct DemoSlot {
    slot: Box<dyn Slot>,
    kind: ChannelKind,
    mails: Arc<Mutex<Vec<Shown>>>,
    refusals: Arc<Mutex<u32>>,
}

#[async_trait]
impl Channel for DemoChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        self.inner.check_recipient(address)
    }

    async fn ready(&self) -> Box<dyn Slot> {
        let slot = self.inner.ready().await;
        let (mails, refusals) = (self.mails.clone(), self.refusals.clone());
        Box::new(DemoSlot { slot, kind: self.kind, mails, refusals })
    }
}

#[async_trait]
impl Slot for DemoSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        if message.recipient == "busy@example.com" {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if *refusals < 2 {
                *refusals += 1;
                let reply = Smtp {
                    server: "demo".to_owned(),
                    command: "RCPT".to_owned(),
                    code: 451,
                    enhanced: Some("4.3.2".to_owned()),
                    reply: "4.3.2 the demo's mail server is busy".to_owned(),
                };
                return Outcome::Refused { reply, permanent: false };
            }
        }
        let outcome = self.slot.send(message, latch).await;
        if matches!(outcome, Outcome::Sent(_) | Outcome::Simulated) {
            let title = format!("to {}", message.recipient);
            let mail = Shown { title, channel: self.kind, mail: message.clone() };
            self.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        }
        outcome
    }
}
