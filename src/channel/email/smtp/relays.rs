//! The mail channel: each mail goes over the first relay that can be used.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout_at};

use super::{
    rate::{Rate, SharedRates},
    relay::{Relay, Surroundings, Way},
    server::Server,
};
use crate::{
    channel::{Channel, Slot, SlotRequest, email::Sender},
    config,
    health::{Dependency, Health, State},
    metrics::Metrics,
};

/// Mail over SMTP.
pub struct SmtpChannel {
    /// By their order.
    relays: Vec<Arc<Relay>>,
    usability: Arc<Usability>,
    /// Counts mail that several relays of one order could take.
    shared_out: AtomicUsize,
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
        rates: &SharedRates,
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
                rate: relay.smtp.rate.map(|limit| Rate::new(limit, &relay.name, rates)),
                is_named,
            };
            let made = Relay::new(relay, around).map_err(|reason| match is_named {
                true => format!("relay {}: {reason}", relay.name),
                false => reason,
            });
            Ok(Arc::new(made?))
        });
        let relays = relays.collect::<Result<Vec<Arc<Relay>>, String>>()?;
        for (relay, health) in relays.iter().zip(health.relays()) {
            let watched = relay.clone();
            metrics.watch_pool(health.name(), move || watched.status());
        }
        Ok(Self { relays, usability, shared_out: AtomicUsize::new(0) })
    }

    /// Opens a connection, logs in, has the sender accepted and says goodbye.
    ///
    /// # Errors
    /// In which phase it failed and why.
    pub async fn test(relay: &config::Relay, sender: &Sender) -> Result<(), String> {
        let session = Server::new(relay.smtp.clone(), None)?.connect().await;
        let mut session = session.map_err(|error| error.to_string())?;
        let (from, setting) = sender.sample_envelope_sender();
        session.try_sender(&from, setting).await?;
        session.quit().await;
        Ok(())
    }

    /// The relays that a message may go over, by their order.
    fn takers(&self, request: SlotRequest<'_>) -> Vec<&Arc<Relay>> {
        let named = self.relays.iter().find(|relay| relay.name() == request.relay);
        if let Some(relay) = named.filter(|_| request.relay.is_some()) {
            return vec![relay];
        }
        // A relay that is gone from the settings has no say.
        self.relays.iter().filter(|relay| relay.takes(request)).collect()
    }

    /// A place on the first of these relays that can be used. Those of one order share by weight.
    async fn first_usable(
        &self,
        takers: &[&Arc<Relay>],
        except: &[String],
        may_try: bool,
    ) -> Option<Box<dyn Slot>> {
        let is_left = |relay: &Relay| !except.iter().any(|one| Some(one.as_str()) == relay.name());
        let left = takers.iter().filter(|relay| is_left(relay)).count();
        for group in takers.chunk_by(|a, b| a.order == b.order) {
            let is_fallback = group[0].order > takers[0].order;
            let (before, from) = group.split_at(self.share(group));
            for relay in from.iter().chain(before).filter(|relay| is_left(relay)) {
                let way = Way { is_fallback, is_last: left == 1 };
                if let Some(slot) = relay.slot(way, may_try).await {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// Which of them is next by weight.
    fn share(&self, relays: &[&Arc<Relay>]) -> usize {
        let total: usize = relays.iter().map(|relay| usize::from(relay.weight)).sum();
        if relays.len() < 2 {
            return 0;
        }
        let mut turn = self.shared_out.fetch_add(1, Ordering::Relaxed) % total;
        let is_next = |relay: &&Arc<Relay>| match turn.checked_sub(relay.weight.into()) {
            Some(left) => {
                turn = left;
                false
            }
            None => true,
        };
        relays.iter().position(is_next).unwrap_or(0)
    }
}

#[async_trait]
impl Channel for SmtpChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        crate::channel::email::check_recipient(address)
    }

    async fn ready(&self, request: SlotRequest<'_>) -> Box<dyn Slot> {
        let takers = self.takers(request);
        let mut changes = self.usability.changed.subscribe();
        loop {
            changes.mark_unchanged();
            // Where none works, a retry may be what one is tried with.
            for may_try in [!request.is_retry, true] {
                let slot = self.first_usable(&takers, request.except, may_try).await;
                if let Some(slot) = slot {
                    return slot;
                }
            }
            let next = takers.iter().filter_map(|relay| relay.next_by_rate()).min();
            let changed = changes.changed();
            // The sender lives as long as this channel.
            match next {
                Some(next) => drop(timeout_at(next.into(), changed).await),
                None => drop(changed.await),
            }
        }
    }

    async fn check(&self) {
        join_all(self.relays.iter().map(Relay::check)).await;
    }

    async fn close(&self) {
        join_all(self.relays.iter().map(|relay| relay.close())).await;
    }
}

impl Usability {
    pub(super) fn has_several(&self) -> bool {
        !self.relays.is_empty()
    }

    /// Whether there are several relays, and not all of them are known to be down.
    pub(super) fn may_another_be_used(&self) -> bool {
        self.relays.iter().any(|relay| !matches!(relay.state(), State::Down(_)))
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
