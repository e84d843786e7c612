//! `usher check`: everything that a start needs, all faults at once.

use std::{path::Path, process::ExitCode, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use super::{args::CheckArgs, print};
use crate::{
    app::load,
    broker::amqp,
    channel::{email::SmtpChannel, sms::SmsChannel},
    config::{EmailBackend, Settings},
    failure::{EXIT_CONFIG, EXIT_UNAVAILABLE, Failure},
    logging, stream_source,
};

/// How long each service may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

struct Check {
    name: &'static str,
    result: Result<String, String>,
}

pub(crate) async fn check(config: Option<&Path>, args: &CheckArgs) -> Result<ExitCode, Failure> {
    let loaded = match load::load(config) {
        Ok(loaded) => loaded,
        Err(failure) if args.json => {
            let faults: Vec<String> =
                failure.error.to_string().lines().map(ToOwned::to_owned).collect();
            print(
                &json!({"ok": false, "configuration": {"ok": false, "faults": faults}}).to_string(),
            );
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
        Err(failure) => return Err(failure),
    };
    logging::init_quiet(loaded.settings.log_format);
    let routes = loaded.routing.routes().len();
    let mut checks = Vec::new();
    if !args.offline {
        checks = Box::pin(connections(&loaded.settings)).await;
    }
    let ok = checks.iter().all(|check| check.result.is_ok());
    if args.json {
        let connections: serde_json::Map<_, _> = checks
            .iter()
            .map(|check| {
                let value = match &check.result {
                    Ok(detail) => json!({"ok": true, "detail": detail}),
                    Err(reason) => json!({"ok": false, "error": reason}),
                };
                (check.name.to_owned(), value)
            })
            .collect();
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let configuration = json!({"ok": true, "routes": routes, "warnings": warnings});
        print(
            &json!({"ok": ok, "configuration": configuration, "connections": connections})
                .to_string(),
        );
    } else {
        for warning in &loaded.warnings {
            print(&format!("warning  {warning}"));
        }
        print(&format!(
            "ok       configuration: {routes} routes, every template renders its samples"
        ));
        for check in &checks {
            match &check.result {
                Ok(detail) => print(&format!("ok       {}: {detail}", check.name)),
                Err(reason) => print(&format!("FAILED   {}: {reason}", check.name)),
            }
        }
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNAVAILABLE) })
}

async fn connections(settings: &Settings) -> Vec<Check> {
    let rabbitmq =
        async { amqp::test(&settings.rabbitmq).await.map_err(|error| format!("{error:#}")) };
    let redis = async {
        let ledger = load::open_ledger(settings).map_err(|failure| failure.to_string())?;
        ledger.has_epoch().await.map(drop).map_err(|error| error.to_string())
    };
    let mongodb = async {
        let audit = load::open_audit(settings).await.map_err(|failure| failure.to_string())?;
        audit.ping().await.map_err(|error| error.to_string())
    };
    let smtp = async {
        match &settings.email.backend {
            EmailBackend::Smtp(smtp) => {
                SmtpChannel::test(smtp).await?;
                let login =
                    if smtp.credentials.is_some() { "logged in" } else { "no login configured" };
                Ok(format!("{}:{}, {login}", smtp.server, smtp.port))
            }
            EmailBackend::File(folder) => {
                Ok(format!("not used, mail goes to {}", folder.display()))
            }
            EmailBackend::Console => Ok("not used, mail goes to standard output".to_owned()),
            EmailBackend::Simulated => Ok("not configured, mail is simulated".to_owned()),
        }
    };
    let sms = async {
        let Some(gateway) = &settings.sms else {
            return Ok("not configured, text messages are simulated".to_owned());
        };
        SmsChannel::test(gateway).await?;
        Ok(format!("{}, logged in", gateway.base_url))
    };
    let stream = async {
        match &settings.stream {
            None => Ok("not configured, no stream is read".to_owned()),
            Some(stream) => stream_source::test(stream).await,
        }
    };
    let up = |()| "answers".to_owned();
    let (rabbitmq, redis, mongodb, smtp, sms, stream) = tokio::join!(
        answer("rabbitmq", async { rabbitmq.await.map(up) }),
        answer("redis", async { redis.await.map(up) }),
        answer("mongodb", async { mongodb.await.map(up) }),
        answer("smtp", smtp),
        answer("sms", sms),
        answer("stream", stream),
    );
    vec![rabbitmq, redis, mongodb, smtp, sms, stream]
}

async fn answer(name: &'static str, work: impl Future<Output = Result<String, String>>) -> Check {
    let result = timeout(PATIENCE, work).await;
    Check { name, result: result.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}"))) }
}
