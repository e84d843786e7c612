//! Puts the pipeline together from its parts, whichever they are.

use std::sync::Arc;

use super::load::Loaded;
use crate::{
    audit::Audit,
    broker::{Broker, Handler},
    channel::{
        Channel,
        email::SmtpChannel,
        file::FileChannel,
        simulated::Simulated,
        sms::{SimulatedSms, SmsChannel},
    },
    config::EmailBackend,
    delivery::{Pipeline, Policy},
    failure::Failure,
    health::Health,
    ledger::Ledger,
    metrics::Metrics,
    routing::Identity,
    scheduler::Scheduler,
    trace::Tracer,
};

/// Everything but the places that differ between embedded mode and services.
pub(crate) struct Parts {
    pub(crate) instance: String,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) audit: Arc<dyn Audit>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) email: Arc<dyn Channel>,
    pub(crate) sms: Arc<dyn Channel>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) tracer: Tracer,
}

pub(crate) fn pipeline(loaded: Loaded, parts: Parts) -> Arc<Pipeline> {
    let composer = loaded.composer();
    let settings = loaded.settings;
    Arc::new(Pipeline {
        identity: Identity::new(settings.pepper.expose()),
        routing: loaded.routing,
        composer,
        policy: Policy {
            instance: parts.instance,
            retry_schedule: settings.retry_schedule,
            rate_limit: settings.rate_limit,
            hold_time: settings.hold,
            retention: settings.audit_retention,
            enabled: settings.email.enabled,
            reminder_before: settings.reminder_before,
        },
        ledger: parts.ledger,
        audit: parts.audit,
        scheduler: parts.scheduler,
        email: parts.email,
        sms: parts.sms,
        broker: parts.broker,
        health: parts.health,
        metrics: parts.metrics,
        tracer: parts.tracer,
        quarantine: tokio::sync::RwLock::default(),
    })
}

/// What is done with each message.
pub(crate) fn handler(pipeline: Arc<Pipeline>) -> Handler {
    Arc::new(move |message| {
        let pipeline = pipeline.clone();
        Box::pin(async move { pipeline.process(message).await })
    })
}

/// The mail channel that the settings ask for.
pub(crate) fn email_channel(
    loaded: &Loaded,
    health: &Health,
    metrics: &Metrics,
) -> Result<Arc<dyn Channel>, Failure> {
    let sender = loaded.sender.clone();
    if !matches!(loaded.settings.email.backend, EmailBackend::Smtp(_)) {
        health.smtp.unused();
    }
    Ok(match &loaded.settings.email.backend {
        EmailBackend::Smtp(smtp) => {
            let channel = SmtpChannel::new(smtp, sender, health.smtp.clone());
            Arc::new(channel.map_err(Failure::config)?.watched_by(metrics))
        }
        EmailBackend::File(folder) => {
            let channel = FileChannel::new(sender, folder.clone());
            Arc::new(channel.map_err(|error| {
                Failure::config(format!("EMAIL_FILE_PATH {}: {error}", folder.display()))
            })?)
        }
        EmailBackend::Console => Arc::new(Simulated::console(sender)),
        EmailBackend::Simulated => {
            tracing::warn!("SMTP is not configured: mail is SIMULATED, nothing is sent");
            Arc::new(Simulated::new(sender))
        }
    })
}

/// The channel of text messages that the settings ask for.
pub(crate) fn sms_channel(loaded: &Loaded, health: &Health) -> Result<Arc<dyn Channel>, Failure> {
    Ok(match &loaded.settings.sms {
        Some(gateway) => {
            Arc::new(SmsChannel::new(gateway, health.sms.clone()).map_err(Failure::config)?)
        }
        None => {
            health.sms.unused();
            Arc::new(SimulatedSms)
        }
    })
}
