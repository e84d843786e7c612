//! `usher check`: everything that a start needs, all faults at once.

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::output::print;
use crate::{
    app::configuration::{self, Configuration},
    broker::amqp,
    channel::{
        email::{Sender, SmtpChannel},
        sms::SmsChannel,
    },
    config::{EmailBackend, Endpoint, Relay, Settings},
    failure::{EXIT_CONFIG, EXIT_UNAVAILABLE, Failure},
    logging,
    metrics::Metrics,
    reason::explained,
    receipts,
    routing::SourceQueue,
    stream_source,
    supervisor::Supervisor,
    template::source,
};

/// How long each service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Leave out the connections.
    #[arg(long)]
    offline: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A service, and what it answered or why it could not be used.
type Connection = (String, Result<String, String>);

pub(super) async fn run(config: Option<&Path>, args: &CheckArgs) -> Result<ExitCode, Failure> {
    let loaded = match configuration::load(config) {
        Ok(loaded) => loaded,
        Err(failure) if args.json => {
            let text = failure.error.to_string();
            let faults: Vec<_> = text.lines().collect();
            let configuration = json!({"ok": false, "faults": faults});
            print(&json!({"ok": false, "configuration": configuration}).to_string());
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
        Err(failure) => return Err(failure),
    };
    logging::init_quiet(loaded.settings.log_format)?;
    let connections = match args.offline {
        true => Vec::new(),
        false => Box::pin(connections(&loaded)).await,
    };
    let ok = connections.iter().all(|(_, result)| result.is_ok());
    if args.json {
        print(&as_json(&loaded, ok, &connections).to_string());
    } else {
        print_report(&loaded, &connections);
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNAVAILABLE) })
}

fn as_json(loaded: &Configuration, ok: bool, connections: &[Connection]) -> Value {
    let connections = connections.iter().map(|(name, result)| {
        let value = match result {
            Ok(detail) => json!({"ok": true, "detail": detail}),
            Err(reason) => json!({"ok": false, "error": reason}),
        };
        (name.clone(), value)
    });
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    json!({
        "ok": ok,
        "configuration": {"ok": true, "routes": loaded.routing.routes().len(), "warnings": warnings},
        "connections": connections.collect::<Map<_, _>>(),
    })
}

fn print_report(loaded: &Configuration, connections: &[Connection]) {
    for warning in &loaded.warnings {
        print(&format!("warning  {warning}"));
    }
    for note in loaded.templates.lacking() {
        print(&format!("note     templates: {note}; their mail is in DEFAULT_LOCALE"));
    }
    for note in source::unused(&loaded.files, |name| loaded.routing.uses_template(name)) {
        print(&format!("note     templates: {note}"));
    }
    let routes = loaded.routing.routes().len();
    print(&format!("ok       configuration: {routes} routes, every template renders its samples"));
    for (name, result) in connections {
        print(&match result {
            Ok(detail) => format!("ok       {name}: {detail}"),
            Err(reason) => format!("FAILED   {name}: {reason}"),
        });
    }
}

async fn connections(loaded: &Configuration) -> Vec<Connection> {
    let (settings, sources) = (&loaded.settings, loaded.routing.queues());
    let relays = settings.email.backend.relays();
    let name = |relay: &Relay| match relays.len() {
        1 => "smtp".to_owned(),
        _ => format!("relay:{}", relay.name),
    };
    let relays = relays.iter().zip(&loaded.relay_senders);
    let relays = relays.map(|(one, sender)| limited(name(one), relay(one, sender)));
    let (rabbitmq, redis, mongodb, relays, sms, stream, mailbox) = tokio::join!(
        limited("rabbitmq", naming_hosts(&settings.rabbitmq, rabbitmq(settings, sources))),
        limited("redis", naming_hosts(&settings.redis, redis(settings))),
        limited("mongodb", mongodb(settings)),
        join_all(relays),
        limited("sms", sms(settings)),
        limited("stream", stream(settings)),
        limited("mailbox", mailbox(settings)),
    );
    let mail = match relays.is_empty() {
        true => vec![("smtp".to_owned(), Ok(without_smtp(&settings.email.backend)))],
        false => relays,
    };
    [vec![rabbitmq, redis, mongodb], mail, vec![sms, stream, mailbox]].concat()
}

async fn limited(
    name: impl Into<String>,
    check: impl Future<Output = Result<String, String>>,
) -> Connection {
    let result = timeout(TIMEOUT, check).await;
    (name.into(), result.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}"))))
}

/// Puts the hosts of the URL in front of what went wrong.
async fn naming_hosts(
    endpoint: &Endpoint,
    check: impl Future<Output = Result<String, String>>,
) -> Result<String, String> {
    let url = endpoint.url.expose();
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let login_and_hosts = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = login_and_hosts.rsplit('@').next().unwrap_or_default();
    check.await.map_err(|reason| format!("{hosts}: {reason}"))
}

fn answers() -> String {
    "answers".to_owned()
}

async fn rabbitmq(settings: &Settings, sources: &[SourceQueue]) -> Result<String, String> {
    let result = amqp::test(&settings.rabbitmq, sources, settings.status_events).await;
    result.map(|()| answers()).map_err(|error| explained(&error))
}

async fn redis(settings: &Settings) -> Result<String, String> {
    let ledger = configuration::open_ledger(settings, &Supervisor::default())
        .map_err(|failure| failure.to_string())?;
    let result = async {
        ledger.test().await?;
        ledger.look_for_foreign_deployment().await?;
        ledger.advice().await
    };
    let advice = result.await.map_err(|error| explained(&error.0))?;
    Ok(advice.map_or_else(answers, |advice| format!("{}, but {advice}", answers())))
}

async fn mongodb(settings: &Settings) -> Result<String, String> {
    let audit = configuration::open_audit(settings, Metrics::default(), &Supervisor::default())
        .await
        .map_err(|failure| failure.to_string())?;
    audit.ping().await.map_err(|error| error.to_string())?;
    // Who may not read the collection knows nobody.
    match audit.foreign_instance(jiff::Timestamp::now()).await {
        Ok(Some(foreign)) => Err(foreign.to_string()),
        _ => Ok(answers()),
    }
}

async fn relay(relay: &Relay, sender: &Sender) -> Result<String, String> {
    SmtpChannel::test(relay, sender).await?;
    let smtp = &relay.smtp;
    let has_login = smtp.credentials.is_some() || smtp.oauth.is_some();
    let login = if has_login { "logged in" } else { "no login configured" };
    let path = relay.bounce_address.as_ref().map(|_| ", takes the return path");
    Ok(format!("{}:{}, {login}{}", smtp.server, smtp.port, path.unwrap_or_default()))
}

fn without_smtp(backend: &EmailBackend) -> String {
    match backend {
        EmailBackend::File(folder) => format!("not used, mail goes to {}", folder.display()),
        EmailBackend::Console => "not used, mail goes to standard output".to_owned(),
        EmailBackend::Simulated | EmailBackend::Smtp(_) => {
            "not configured, mail is simulated".to_owned()
        }
    }
}

async fn sms(settings: &Settings) -> Result<String, String> {
    let Some(gateway) = &settings.sms else {
        return Ok("not configured, text messages are simulated".to_owned());
    };
    SmsChannel::test(gateway).await?;
    Ok(format!("{}, logged in", gateway.base_url))
}

async fn mailbox(settings: &Settings) -> Result<String, String> {
    let Some(mailbox) = &settings.bounce_mailbox else {
        return Ok("not configured, no reports are read from a mailbox".to_owned());
    };
    let count = receipts::test_mailbox(mailbox).await.map_err(|error| format!("{error:#}"))?;
    let (host, port, name) = (&mailbox.host, mailbox.port, &mailbox.mailbox);
    Ok(format!("{host}:{port}, logged in, {name} has {count} messages"))
}

async fn stream(settings: &Settings) -> Result<String, String> {
    match &settings.stream {
        None => Ok("not configured, no stream is read".to_owned()),
        Some(stream) => stream_source::test(stream).await,
    }
}
