//! `usher dead-letters`, `poison` and `parked`: what lies aside until an operator decides.
//!
//! `list` and `show` read the audit. `replay` (for parked mail `resend`) sends a message on its way
//! again, `drop` (`dismiss`) removes it; both take a reason, which is recorded before anything is
//! done, and do nothing without `--yes`.

use std::{collections::HashSet, path::Path, process::ExitCode, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{EXIT_DATA, EXIT_UNAVAILABLE, Failure, load, say};
use crate::{
    audit::{AuditError, Record, Status, mongo::MongoAudit, query::Action},
    broker::{
        Broker, Destination, HandOff, Message, Ticket,
        amqp::{AmqpBroker, Shelf, Taken, Topology},
    },
    catalog::{Delivery, DeliveryId, Priority, Recipient},
    cli::{ChooseArgs, ShelfCommand},
    event,
};

struct Desk {
    shelf: Shelf,
    audit: MongoAudit,
    loaded: load::Loaded,
}

/// What an operator decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    SendAgain,
    Remove,
}

pub(super) async fn shelf(
    config: Option<&Path>,
    shelf: Shelf,
    command: ShelfCommand,
) -> Result<ExitCode, Failure> {
    let (loaded, audit) = load::with_audit(config).await?;
    let desk = Desk { shelf, audit, loaded };
    match command {
        ShelfCommand::List { since, limit, json } => desk.list(since, limit, json).await,
        ShelfCommand::Show { delivery, json } => desk.show(&delivery, json).await,
        ShelfCommand::Replay(args) => desk.decide(args, Decision::SendAgain).await,
        ShelfCommand::Drop(args) => desk.decide(args, Decision::Remove).await,
    }
}

impl Desk {
    /// The last word of what lies on this shelf.
    fn status(&self) -> Status {
        match self.shelf {
            Shelf::Dead => Status::Failed,
            Shelf::Poison => Status::Rejected,
            Shelf::Parked => Status::Unknown,
        }
    }

    async fn list(
        &self,
        since: Option<SignedDuration>,
        limit: i64,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let since = since.map(|since| Timestamp::now() - since);
        let unavailable = |error: AuditError| Failure::new(EXIT_UNAVAILABLE, error);
        let records = self.audit.with_status(self.status(), since, limit).await;
        let mut records = records.map_err(unavailable)?;
        let removed = self.audit.removed(&records).await.map_err(unavailable)?;
        records.retain(|record| !removed.contains(record.delivery_id.as_str()));
        for record in &records {
            say(&if json { serde_json::to_string(record)? } else { line(record) });
        }
        if records.is_empty() && !json {
            say(&format!("nothing in {}", self.shelf.queue()));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn show(&self, delivery: &str, json: bool) -> Result<ExitCode, Failure> {
        let delivery = delivery_id(delivery)?;
        let records = self.audit.history(&delivery).await;
        let records = records.map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?;
        if records.is_empty() {
            return Err(Failure::new(
                EXIT_DATA,
                anyhow::anyhow!("no record of delivery {delivery}"),
            ));
        }
        for record in &records {
            say(&if json {
                serde_json::to_string(record)?
            } else {
                serde_json::to_string_pretty(record)?
            });
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn decide(&self, args: ChooseArgs, decision: Decision) -> Result<ExitCode, Failure> {
        let wanted: HashSet<DeliveryId> =
            args.deliveries.iter().map(|text| delivery_id(text)).collect::<Result<_, _>>()?;
        let unavailable = |error: anyhow::Error| Failure::new(EXIT_UNAVAILABLE, error);
        let settings = &self.loaded.settings;
        let taken = Taken::open(&settings.rabbitmq, self.shelf).await.map_err(unavailable)?;
        let found = taken.find(&wanted).await.map_err(unavailable)?;
        let topology = Topology::new(self.loaded.catalog.queues(), &settings.retry_schedule);
        let broker = AmqpBroker::new(settings.rabbitmq.clone(), Arc::new(topology));
        let mut missing = wanted;
        let mut refused = false;
        for (message, handle) in found {
            let Some(ticket) = &message.ticket else { continue };
            missing.remove(&ticket.delivery_id);
            if let Err(reason) = self.may(decision, &message).await? {
                say(&format!("{} refused: {reason}", ticket.delivery_id));
                refused = true;
                continue;
            }
            if !args.yes {
                say(&format!("{} would be {}", ticket.delivery_id, self.done(decision)));
                continue;
            }
            let action = Action {
                by: args.by.clone(),
                action: self.word(decision),
                target: ticket.delivery_id.to_string(),
                reason: args.reason.clone(),
            };
            self.audit.act(&action).await.map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?;
            if decision == Decision::SendAgain {
                self.send_again(&broker, &message, &args.reason).await.map_err(unavailable)?;
            }
            handle.remove().await.map_err(unavailable)?;
            say(&format!("{} {}", ticket.delivery_id, self.done(decision)));
        }
        for delivery in &missing {
            say(&format!("{delivery} is not in {}", self.shelf.queue()));
        }
        broker.close().await;
        taken.close().await;
        if !args.yes && !refused && missing.is_empty() {
            say("nothing was done; --yes does it");
        }
        let ok = missing.is_empty() && !refused;
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }

    /// Whether the decision makes sense. Mail that went out after all must not go out again.
    async fn may(
        &self,
        decision: Decision,
        message: &Message,
    ) -> Result<Result<(), String>, Failure> {
        let Some(ticket) = message.ticket.as_ref().filter(|_| decision == Decision::SendAgain)
        else {
            return Ok(Ok(()));
        };
        if ticket.masked {
            return Ok(Err("its secrets are masked, so it can't be sent again".to_owned()));
        }
        let history = self.audit.history(&ticket.delivery_id).await;
        let history = history.map_err(|error| Failure::new(EXIT_UNAVAILABLE, error))?;
        let sent =
            history.iter().any(|record| matches!(record.status, Status::Sent | Status::Simulated));
        Ok(if sent { Err("it was sent".to_owned()) } else { Ok(()) })
    }

    async fn send_again(
        &self,
        broker: &AmqpBroker,
        message: &Message,
        reason: &str,
    ) -> anyhow::Result<()> {
        let Some(ticket) = &message.ticket else { return Ok(()) };
        if ticket.route.is_empty() {
            // It never became a delivery: it begins anew, where it came from.
            let again = Message { queue: ticket.origin.clone(), ticket: None, ..message.clone() };
            return Ok(broker.publish_event(&again).await?);
        }
        let priority = self.priority(ticket, message);
        let mut again = ticket.clone();
        again.attempt += 1;
        again.reason = format!("sent again by an operator: {reason}");
        broker
            .hand_off(&HandOff {
                ticket: again,
                destination: Destination::Later(
                    Duration::ZERO,
                    priority.unwrap_or(Priority::Medium),
                ),
                body: message.body.clone(),
                properties: message.properties.clone(),
            })
            .await?;
        Ok(())
    }

    /// The event's own where its route lets it say one.
    fn priority(&self, ticket: &Ticket, message: &Message) -> Option<Priority> {
        let route = self.loaded.catalog.route(&ticket.route)?;
        let mut event = event::parse(&message.body, &message.properties, &ticket.origin).ok()?;
        self.loaded.catalog.translate(&mut event);
        let recipient = Recipient::Address(ticket.recipient.clone());
        let id = ticket.delivery_id.clone();
        let delivery = Delivery::handed_off(id, route.clone(), &event, recipient, ticket.attempt);
        Some(delivery.priority)
    }

    fn word(&self, decision: Decision) -> &'static str {
        match (self.shelf, decision) {
            (Shelf::Parked, Decision::SendAgain) => "resend",
            (Shelf::Parked, Decision::Remove) => "dismiss",
            (_, Decision::SendAgain) => "replay",
            (_, Decision::Remove) => "drop",
        }
    }

    fn done(&self, decision: Decision) -> &'static str {
        match decision {
            Decision::SendAgain => "sent on its way again",
            Decision::Remove => "removed",
        }
    }
}

pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, Failure> {
    DeliveryId::from_stored(text)
        .map_err(|text| Failure::new(EXIT_DATA, anyhow::anyhow!("{text:?} is no delivery id")))
}

fn line(record: &Record) -> String {
    let why = record.error.as_ref().map_or("", |error| &error.message);
    let at = record.at.strftime("%Y-%m-%d %H:%M:%S");
    format!(
        "{at}  {}  {}  attempt {}  {}  {why}",
        record.delivery_id, record.event.kind, record.attempt, record.recipient
    )
}
