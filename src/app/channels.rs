//! Mail and text messages, as the settings ask for them.

use std::sync::Arc;

use super::{configuration::Configuration, telemetry::Telemetry};
use crate::{
    channel::{
        Channel,
        email::{SharedRates, SmtpChannel},
        file::FileChannel,
        simulated::Simulated,
        sms::{SimulatedSms, SmsChannel},
    },
    config::EmailBackend,
    failure::Failure,
    ledger::Ledger,
    routing::Identity,
    supervisor::{Supervisor, Task},
};

#[derive(Clone)]
pub(crate) struct Channels {
    pub(crate) email: Arc<dyn Channel>,
    pub(crate) sms: Arc<dyn Channel>,
}

impl Channels {
    pub(super) fn build(
        configuration: &Configuration,
        telemetry: &Telemetry,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self, Failure> {
        let email = email(configuration, telemetry, ledger)?;
        Ok(Self { email, sms: sms(configuration, telemetry)? })
    }

    /// Connects once, so that health knows the servers before the first message.
    pub(super) fn check(&self, supervisor: &Supervisor) {
        for (task, channel) in [(Task::EmailCheck, &self.email), (Task::SmsCheck, &self.sms)] {
            let channel = channel.clone();
            supervisor.spawn_until_done(task, move || {
                let channel = channel.clone();
                async move { channel.check().await }
            });
        }
    }
}

pub(crate) fn email(
    configuration: &Configuration,
    telemetry: &Telemetry,
    ledger: Arc<dyn Ledger>,
) -> Result<Arc<dyn Channel>, Failure> {
    let (sender, health) = (configuration.sender.clone(), &telemetry.health);
    let backend = &configuration.settings.email.backend;
    if !matches!(backend, EmailBackend::Smtp(_)) {
        health.smtp.unused();
    }
    Ok(match backend {
        EmailBackend::Smtp(relays) => {
            let senders = &configuration.relay_senders;
            let deployment = Identity::new(configuration.settings.pepper.expose()).deployment();
            let rates = SharedRates { ledger, deployment };
            let channel = SmtpChannel::new(relays, senders, health, &telemetry.metrics, &rates);
            Arc::new(channel.map_err(Failure::config)?)
        }
        EmailBackend::File(folder) => {
            let channel = FileChannel::new(sender, folder.clone(), health.smtp.clone());
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

pub(super) fn sms(
    configuration: &Configuration,
    telemetry: &Telemetry,
) -> Result<Arc<dyn Channel>, Failure> {
    let health = &telemetry.health.sms;
    Ok(match &configuration.settings.sms {
        Some(gateway) => {
            Arc::new(SmsChannel::new(gateway, health.clone()).map_err(Failure::config)?)
        }
        None => {
            health.unused();
            Arc::new(SimulatedSms)
        }
    })
}
