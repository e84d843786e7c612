//! The mail channel: each mail goes over the first relay that can be used.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::watch;

use super::{
    relay::{Relay, Surroundings},
    server::Server,
};
use crate::{
    channel::{Channel, Slot, email::Sender},
    config,
    health::{Dependency, Health, State},
    metrics::Metrics,
};

/// Mail over SMTP.
pub struct SmtpChannel {
    /// By their order.
    relays: Vec<Arc<Relay>>,
    usability: Arc<Usability>,
}

/// What is known of all relays together.
pub(super) struct Usability {
    smtp: Dependency,
    /// Empty where `smtp` is the only one.
    relays: Vec<Dependency>,
    changed: watch::Sender<()>,
}

impl SmtpChannel {
    /// Connects to nothing yet. Each relay has a sender.
    ///
    /// # Errors
    /// The TLS settings of a relay can't be used.
    pub fn new(
        relays: &[config::Relay],
        senders: &[Sender],
        health: &Health,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let (smtp, known) = (health.smtp.clone(), health.relays.clone());
        let usability = Usability { smtp, relays: known, changed: watch::Sender::new(()) };
        let usability = Arc::new(usability);
        let is_named = relays.len() > 1;
        let parts = relays.iter().zip(senders).zip(health.relays());
        let relays = parts.map(|((relay, sender), health)| {
            let around = Surroundings {
                sender: sender.clone(),
                health: health.clone(),
                usability: usability.clone(),
                fallback: metrics.relay_fallback(&relay.name),
                is_named,
            };
            let made = Arc::new(Relay::new(relay, around).map_err(|reason| match is_named {
                true => format!("relay {}: {reason}", relay.name),
                false => reason,
            })?);
            let watched = made.clone();
            metrics.watch_pool(health.name(), move || watched.status());
            Ok(made)
        });
        Ok(Self { relays: relays.collect::<Result<_, String>>()?, usability })
    }

    /// Opens a connection, logs in, has the sender accepted and says goodbye.
    ///
    /// # Errors
    /// In which phase it failed and why.
    pub async fn test(relay: &config::Relay, sender: &Sender) -> Result<(), String> {
        let session = Server::new(relay.smtp.clone(), None)?.connect().await;
        let mut session = session.map_err(|error| error.to_string())?;
        session.try_sender(sender.address()).await?;
        session.quit().await;
        Ok(())
    }

    async fn first_usable(&self) -> Option<Box<dyn Slot>> {
        let first = self.relays.first()?;
        for relay in &self.relays {
            if let Some(slot) = relay.slot(relay.order > first.order).await {
                return Some(slot);
            }
        }
        None
    }
}

#[async_trait]
impl Channel for SmtpChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        crate::channel::email::check_recipient(address)
    }

    async fn ready(&self) -> Box<dyn Slot> {
        let mut changes = self.usability.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(slot) = self.first_usable().await {
                return slot;
            }
            // The sender lives as long as this channel.
            let _ = changes.changed().await;
        }
    }

    async fn check(&self) {
        join_all(self.relays.iter().map(Relay::check)).await;
    }
}

impl Usability {
    /// Whether there are several relays and one of them can be used.
    pub(super) fn is_another_up(&self) -> bool {
        !self.relays.is_empty() && self.smtp.state() == State::Up
    }

    /// A breaker has opened or closed, or a delivery may be tried.
    pub(super) fn update(&self) {
        let states: Vec<_> =
            self.relays.iter().map(|relay| (relay.name(), relay.state())).collect();
        if states.iter().any(|(_, state)| *state == State::Up) {
            self.smtp.up();
        } else if !states.is_empty() {
            let reasons = states.iter().filter_map(|(name, state)| match state {
                State::Down(reason) => Some(format!("{name}: {reason}")),
                _ => None,
            });
            let reasons: Vec<_> = reasons.collect();
            if reasons.len() == states.len() {
                self.smtp.down(&reasons.join("; "));
            }
        }
        self.changed.send_replace(());
    }
}
