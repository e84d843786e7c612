//! The delivery line in this process: the embedded stores in memory, and channels that do as a test
//! says.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use crate::{
    app::{
        Channels, Telemetry,
        configuration::Configuration,
        pipeline::{self, Backends},
    },
    audit::{Audit, AuditError, Record, Smtp},
    broker::{Broker, BrokerError, Destination, Message, Republish},
    channel::{Attempted, Channel, Outcome, Outgoing, Slot, SlotRequest, email},
    config::{self, Environment, RateLimit, Settings},
    delivery::Pipeline,
    embedded::{
        Database, audit::EmbeddedAudit, broker::EmbeddedBroker, ledger::EmbeddedLedger,
        scheduler::EmbeddedScheduler,
    },
    event::{Properties, Sources},
    ledger::{Admission, Input, InstanceName, Ledger, LedgerError, Reply, WaitingMark},
    routing::{DeliveryId, RoutingTable},
    template::{Globals, Templates, source::Files},
};

/// How long anything may take on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The recipient of every event that names no other.
pub(super) const ANA: &str = "ana@example.com";

const SETTINGS: [(&str, &str); 6] = [
    ("SIMULATE", "always"),
    ("FROM_EMAIL", "tickets@example.org"),
    ("ADMIN_EMAILS", "bea@example.com,eva@example.com,Bea@example.com"),
    ("RETRY_SCHEDULE", "1m,10m"),
    ("REMINDER_BEFORE", "1h"),
    ("TIMEZONE", "America/Bogota"),
];

/// One usher process on stores that outlive it.
pub(super) struct TestBench {
    database: Database,
    settings: Settings,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) email: Arc<ScriptedChannel>,
    pub(super) sms: Arc<ScriptedChannel>,
    pub(super) broker: Arc<TestBroker>,
    pub(super) audit: Arc<TestAudit>,
    pub(super) ledger: Arc<TestLedger>,
}

impl TestBench {
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    /// With some settings changed, by their names in the environment.
    pub(super) fn with(changes: &[(&str, &str)]) -> Self {
        let database = Database::in_memory().unwrap();
        Self::start(database, settings(changes))
    }

    /// With a channel that is waited for no longer than this.
    pub(super) fn holding(hold: Duration) -> Self {
        let database = Database::in_memory().unwrap();
        Self::start(database, Settings { hold, ..settings(&[]) })
    }

    /// Another process on the same stores; the embedded ledger takes this one for dead.
    pub(super) fn next_process(&self) -> Self {
        Self::start(self.database.clone(), self.settings.clone())
    }

    fn start(database: Database, settings: Settings) -> Self {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let (dedup, derived) = (settings.dedup_window, settings.dedup_window_derived);
        let ledger = EmbeddedLedger::new(database.clone(), instance.clone(), dedup, derived);
        let (waits, tells) = (Mutex::default(), Mutex::default());
        let ledger = Arc::new(TestLedger { inner: ledger, waits, tells });
        let audit = Arc::new(TestAudit {
            inner: EmbeddedAudit::new(database.clone()),
            gate: Mutex::default(),
            erased: Mutex::default(),
        });
        let broker = Arc::new(TestBroker {
            inner: EmbeddedBroker::new(database.clone()),
            republished: Mutex::default(),
            refusals: Mutex::default(),
            gate: Mutex::default(),
        });
        let (email, sms) =
            (ScriptedChannel::new(email::check_recipient), ScriptedChannel::new(|_| Ok(())));
        let backends = Backends {
            claims_as: Arc::new(InstanceName::new(&instance)),
            instance,
            ledger: ledger.clone(),
            audit: audit.clone(),
            scheduler: Arc::new(EmbeddedScheduler::new(database.clone())),
            broker: broker.clone(),
            status_events: None,
            suppressions: Arc::default(),
        };
        let channels = Channels { email: email.clone(), sms: sms.clone() };
        let configuration = Configuration { settings: settings.clone(), ..CONFIGURATION.clone() };
        let pipeline = pipeline::build(&configuration, backends, channels, Telemetry::default());
        Self { database, settings, pipeline, email, sms, broker, audit, ledger }
    }

    /// An event that was published just now, for the first time.
    pub(super) async fn process(&self, event: &Value) {
        self.receive(message(event)).await;
    }

    /// The same message once more: the broker saw no acknowledgement.
    pub(super) async fn redeliver(&self, event: &Value) {
        self.receive(Message { redelivered: true, ..message(event) }).await;
    }

    /// What came back from one of usher's own queues.
    pub(super) async fn process_republished(&self, republish: Republish) {
        let message = Message {
            body: republish.body,
            properties: republish.properties,
            queue: republish.destination.queue(),
            redelivered: false,
            received_at: Timestamp::now(),
            delivery_headers: Some(republish.delivery_headers),
            is_authentic: true,
        };
        self.receive(message).await;
    }

    pub(super) async fn receive(&self, message: Message) {
        // Large, and each test would hold it on its own.
        in_time("a message is processed", Box::pin(self.pipeline.process(message))).await;
    }

    /// This process dies while it waits at the gate.
    pub(super) async fn dies_at(&self, gate: &Gate, message: Message) {
        tokio::select! {
            () = self.pipeline.process(message) => panic!("it was processed to the end"),
            () = gate.until_reached() => {}
        }
    }

    /// Each record in the order of writing: attempt, status, kind of error.
    pub(super) async fn outcomes(&self) -> Vec<String> {
        let kind = |record: &Record| record.error.as_ref().map(|error| format!(" {}", error.kind));
        let brief = |record: Record| {
            let (attempt, status) = (record.attempt, record.status.as_str());
            format!("{attempt} {status}{}", kind(&record).unwrap_or_default())
        };
        self.records().await.into_iter().map(brief).collect()
    }

    pub(super) async fn records(&self) -> Vec<Record> {
        self.audit.inner.all().await.unwrap()
    }

    /// The only record.
    pub(super) async fn record(&self) -> Record {
        only(self.records().await)
    }

    /// The route and the state of everything that was planned.
    pub(super) async fn planned(&self) -> Vec<(String, String)> {
        let work = |connection: &mut rusqlite::Connection| {
            let mut query = connection.prepare(
                "SELECT json_extract(planned, '$.ticket.route'), state FROM planned ORDER BY rowid",
            )?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.database.call(work).await.unwrap()
    }

    /// Has everything that is planned due now, and hands it over.
    pub(super) async fn publish_planned(&self) -> usize {
        self.execute("UPDATE planned SET claim_at_ms = 0").await;
        in_time("planned mail is handed over", self.pipeline.publish_due()).await
    }

    /// Loses every entry of the ledger.
    pub(super) async fn lose_ledger(&self) {
        self.execute("DELETE FROM ledger").await;
    }

    /// No recipient has had any mail yet, as far as their limits know.
    pub(super) async fn limits_pass(&self) {
        self.execute("UPDATE rates SET full_until_ms = 0").await;
    }

    /// Loses every record.
    pub(super) async fn lose_audit(&self) {
        self.execute("DELETE FROM deliveries").await;
    }

    async fn execute(&self, sql: &'static str) {
        self.database.call(move |connection| Ok(connection.execute(sql, [])?)).await.unwrap();
    }
}

/// A place at which a test stops the line until it opens it, or for ever.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Notify, Notify)>);

impl Gate {
    pub(super) async fn until_reached(&self) {
        in_time("the gate is reached", self.0.0.notified()).await;
    }

    pub(super) fn open(&self) {
        self.0.1.notify_one();
    }

    fn reach(&self) {
        self.0.0.notify_one();
    }

    async fn pass(&self) {
        self.reach();
        self.0.1.notified().await;
    }
}

/// What a channel does with its next message.
pub(super) enum Act {
    /// Gives this outcome before the body.
    BeforeBody(Outcome),
    /// Takes the body and gives this outcome.
    AfterBody(Outcome),
    /// Waits before the body, then gives this outcome.
    RefuseAt(Gate, Outcome),
    /// Waits before the body, then takes it.
    WaitBeforeBody(Gate),
    /// Takes the body and waits with its answer.
    WaitAfterBody(Gate),
    /// Panics before the body.
    Panic,
}

/// A channel that takes every message but those for which the test says otherwise.
pub(super) struct ScriptedChannel {
    check: fn(&str) -> Result<(), String>,
    script: Arc<Mutex<VecDeque<Act>>>,
    bodies: Arc<Mutex<Vec<Outgoing>>>,
    is_down: Mutex<bool>,
}

impl ScriptedChannel {
    fn new(check: fn(&str) -> Result<(), String>) -> Arc<Self> {
        let (script, bodies, is_down) = (Arc::default(), Arc::default(), Mutex::default());
        Arc::new(Self { check, script, bodies, is_down })
    }

    /// What it does next, after what it was told before.
    pub(super) fn next(&self, act: Act) {
        lock(&self.script).push_back(act);
    }

    /// It is never ready.
    pub(super) fn goes_down(&self) {
        *lock(&self.is_down) = true;
    }

    pub(super) fn comes_up(&self) {
        *lock(&self.is_down) = false;
    }

    /// Each body that went out, whatever was answered to it.
    pub(super) fn bodies(&self) -> Vec<Outgoing> {
        lock(&self.bodies).clone()
    }

    /// To whom bodies went, sorted.
    pub(super) fn recipients(&self) -> Vec<String> {
        let mut recipients: Vec<_> = self.bodies().into_iter().map(|mail| mail.recipient).collect();
        recipients.sort();
        recipients
    }
}

#[async_trait]
impl Channel for ScriptedChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        (self.check)(address)
    }

    async fn ready(&self, _request: SlotRequest<'_>) -> Box<dyn Slot> {
        if *lock(&self.is_down) {
            std::future::pending::<()>().await;
        }
        Box::new(ScriptedSlot { script: self.script.clone(), bodies: self.bodies.clone() })
    }
}

struct ScriptedSlot {
    script: Arc<Mutex<VecDeque<Act>>>,
    bodies: Arc<Mutex<Vec<Outgoing>>>,
}

#[async_trait]
impl Slot for ScriptedSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        self.act(message, latch).await.into()
    }
}

impl ScriptedSlot {
    async fn act(&self, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        let act = lock(&self.script).pop_front();
        let (outcome, gate) = match act {
            None => (Outcome::Sent(None), None),
            Some(Act::BeforeBody(outcome)) => return outcome,
            Some(Act::RefuseAt(gate, outcome)) => {
                gate.pass().await;
                return outcome;
            }
            Some(Act::Panic) => panic!("as the test asked"),
            Some(Act::AfterBody(outcome)) => (outcome, None),
            Some(Act::WaitBeforeBody(gate)) => {
                gate.pass().await;
                (Outcome::Sent(None), None)
            }
            Some(Act::WaitAfterBody(gate)) => (Outcome::Sent(None), Some(gate)),
        };
        if !latch.await {
            return Outcome::Withheld;
        }
        lock(&self.bodies).push(message.clone());
        if let Some(gate) = gate {
            gate.pass().await;
        }
        outcome
    }
}

/// The embedded broker, watched.
pub(super) struct TestBroker {
    inner: EmbeddedBroker,
    republished: Mutex<Vec<Republish>>,
    refusals: Mutex<u32>,
    gate: Mutex<Option<Gate>>,
}

impl TestBroker {
    /// What was handed off since the last call.
    pub(super) fn take(&self) -> Vec<Republish> {
        std::mem::take(&mut *lock(&self.republished))
    }

    /// The only one.
    pub(super) fn take_one(&self) -> Republish {
        only(self.take())
    }

    /// Where to what was handed off went since the last call.
    pub(super) fn take_destinations(&self) -> Vec<Destination> {
        self.take().into_iter().map(|republish| republish.destination).collect()
    }

    /// Does not confirm the next hand-offs, this many.
    pub(super) fn refuses(&self, count: u32) {
        *lock(&self.refusals) = count;
    }

    /// Has the next hand-off wait.
    pub(super) fn waits_at(&self, gate: &Gate) {
        *lock(&self.gate) = Some(gate.clone());
    }
}

#[async_trait]
impl Broker for TestBroker {
    async fn republish(&self, republish: &Republish) -> Result<(), BrokerError> {
        pass(&self.gate).await;
        {
            let mut refusals = lock(&self.refusals);
            if *refusals > 0 {
                *refusals -= 1;
                return Err(BrokerError(anyhow::anyhow!("not confirmed")));
            }
        }
        self.inner.republish(republish).await?;
        lock(&self.republished).push(republish.clone());
        Ok(())
    }
}

/// The embedded audit, in which somebody may have been erased.
pub(super) struct TestAudit {
    inner: EmbeddedAudit,
    gate: Mutex<Option<Gate>>,
    erased: Mutex<HashMap<String, Timestamp>>,
}

impl TestAudit {
    /// Has the next record wait.
    pub(super) fn waits_at(&self, gate: &Gate) {
        *lock(&self.gate) = Some(gate.clone());
    }

    /// The embedded mode erases nobody, so the tombstone stands here.
    pub(super) fn erase(&self, recipient_hash: String) {
        lock(&self.erased).insert(recipient_hash, Timestamp::now());
    }
}

#[async_trait]
impl Audit for TestAudit {
    async fn write(&self, record: Arc<Record>) -> Result<(), AuditError> {
        pass(&self.gate).await;
        self.inner.write(record).await
    }

    async fn last(&self, delivery: &DeliveryId) -> Result<Option<Record>, AuditError> {
        self.inner.last(delivery).await
    }

    async fn is_empty(&self) -> Result<bool, AuditError> {
        self.inner.is_empty().await
    }

    async fn erased_at(&self, recipient_hash: &str) -> Result<Option<Timestamp>, AuditError> {
        Ok(lock(&self.erased).get(recipient_hash).copied())
    }
}

/// Which inputs wait at a gate.
type Which = (fn(&Input) -> bool, Gate);

/// The embedded ledger, which a test may keep from hearing something.
pub(super) struct TestLedger {
    inner: EmbeddedLedger,
    waits: Mutex<Option<Which>>,
    tells: Mutex<Option<Which>>,
}

impl TestLedger {
    /// Has the next such input wait.
    pub(super) fn waits_at(&self, gate: &Gate, which: fn(&Input) -> bool) {
        *lock(&self.waits) = Some((which, gate.clone()));
    }

    /// The gate is reached when the next such input was applied.
    pub(super) fn tells(&self, gate: &Gate, which: fn(&Input) -> bool) {
        *lock(&self.tells) = Some((which, gate.clone()));
    }
}

#[async_trait]
impl Ledger for TestLedger {
    async fn apply(&self, delivery: &DeliveryId, input: Input) -> Result<Reply, LedgerError> {
        let waits = lock(&self.waits).take_if(|(which, _)| which(&input));
        if let Some((_, gate)) = waits {
            gate.pass().await;
        }
        let tells = lock(&self.tells).take_if(|(which, _)| which(&input));
        let reply = self.inner.apply(delivery, input).await;
        if let Some((_, gate)) = tells {
            gate.reach();
        }
        reply
    }

    async fn admit(
        &self,
        recipient_hash: &str,
        limit: RateLimit,
    ) -> Result<Admission, LedgerError> {
        self.inner.admit(recipient_hash, limit).await
    }

    async fn renew(&self, instance: &str) -> Result<(), LedgerError> {
        self.inner.renew(instance).await
    }

    async fn mark_waiting(
        &self,
        mark: &WaitingMark,
        keys: &[String],
        kept: Duration,
    ) -> Result<(), LedgerError> {
        self.inner.mark_waiting(mark, keys, kept).await
    }

    async fn waiting(&self, key: &str) -> Result<Vec<WaitingMark>, LedgerError> {
        self.inner.waiting(key).await
    }
}

async fn pass(gate: &Mutex<Option<Gate>>) {
    let gate = lock(gate).take();
    if let Some(gate) = gate {
        gate.pass().await;
    }
}

/// A complete event of this type for Ana.
pub(super) fn event(kind: &str, id: &str) -> Value {
    json!({"event_type": kind, "event_id": id, "to": ANA, "text": "hello"})
}

/// The same with more fields, or others.
pub(super) fn with(mut event: Value, changes: &Value) -> Value {
    let changes = changes.as_object().unwrap().clone();
    event.as_object_mut().unwrap().extend(changes);
    event
}

/// The event as a message that was published just now.
pub(super) fn message(event: &Value) -> Message {
    raw_message(event.to_string())
}

/// Any body as a message that was published just now.
pub(super) fn raw_message(body: impl Into<Vec<u8>>) -> Message {
    let seconds = u64::try_from(Timestamp::now().as_second()).ok();
    Message {
        body: body.into(),
        properties: Properties { timestamp: seconds, ..Properties::default() },
        queue: "events".to_owned(),
        redelivered: false,
        received_at: Timestamp::now(),
        delivery_headers: None,
        is_authentic: true,
    }
}

/// A refusal of RCPT.
pub(super) fn refused(code: u16) -> Outcome {
    let reply = Smtp {
        server: "test".to_owned(),
        command: "RCPT".to_owned(),
        code,
        enhanced: None,
        reply: "no".to_owned(),
        relay: None,
        queue_id: None,
    };
    Outcome::Refused { reply, permanent: code >= 500 }
}

/// So many minutes from now, as events say it.
pub(super) fn in_minutes(minutes: i64) -> String {
    (Timestamp::now() + SignedDuration::from_mins(minutes)).to_string()
}

/// The only one of these.
pub(super) fn only<T>(all: Vec<T>) -> T {
    let [one] =
        <[T; 1]>::try_from(all).unwrap_or_else(|all| panic!("{} instead of one", all.len()));
    one
}

pub(super) async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(DEADLINE, coming).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settings(changes: &[(&str, &str)]) -> Settings {
    let all: HashMap<&str, &str> = SETTINGS.iter().chain(changes).copied().collect();
    let environment: Environment = all.into_iter().collect();
    config::load(None, &environment).unwrap().0
}

/// What all benches share, for it never changes.
static CONFIGURATION: LazyLock<Configuration> = LazyLock::new(|| {
    let settings = settings(&[]);
    let admins = settings.admin_emails.clone();
    let lists = HashMap::from([("ADMIN_EMAILS".to_owned(), admins)]);
    let mut files = Files::new();
    for language in ["en", "es"] {
        for part in [
            "note/LANGUAGE.subject",
            "note/LANGUAGE.html",
            "note/LANGUAGE.txt",
            "note_sms/LANGUAGE.sms",
        ] {
            let path = format!("{}.hbs", part.replace("LANGUAGE", language));
            files.insert(path, "A note: {{text}}".to_owned());
        }
        for (part, text) in [("subject", "t"), ("html", "<img src=\"cid:text\">"), ("txt", "t")] {
            files.insert(format!("ticket/{language}.{part}.hbs"), text.to_owned());
        }
    }
    let sender = email::Sender::new("Cinema", &settings.email.from_address, None).unwrap();
    let routing = RoutingTable::parse(include_str!("routes.toml"), &lists).unwrap();
    let templates = Templates::compile(&files, &routing, Globals::new(&settings)).unwrap();
    Configuration {
        warnings: Vec::new(),
        routing: Arc::new(routing),
        templates: Arc::new(templates),
        files: Arc::new(files),
        sources: Arc::new(Sources::new(&settings).unwrap()),
        sender,
        brand_senders: Arc::default(),
        relay_senders: Vec::new(),
        settings,
    }
});
