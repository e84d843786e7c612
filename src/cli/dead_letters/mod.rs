//! `usher dead-letters`, `poison` and `parked`: what lies aside until an operator decides.
//!
//! `list` and `show` read the audit (of poison, also the queue: not all of it came through usher).
//! `replay` (for parked mail `resend`) sends a message on its way again, as it is or corrected; `drop`
//! (`dismiss`) removes it. Both take a reason, which is recorded before anything is done, and do
//! nothing without `--yes` or a terminal's confirmation.

mod correction;
mod field_changes;
mod selection;
mod table;

use std::{
    collections::{HashMap, HashSet},
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use self::{
    correction::{Correction, kept},
    selection::Selection,
};
use super::{
    args::{DeadLettersCommand, DeadLettersFilter, DeadLettersSelection},
    print, print_err,
};
use crate::{
    app::load,
    audit::{
        Record, Status,
        store::{
            MongoAudit,
            actions::{Action, Aside},
        },
    },
    broker::{
        Message,
        amqp::{AmqpBroker, DeadLetterQueue, Handle, Taken, Topology},
    },
    failure::{EXIT_DATA, Failure},
    routing::{DeliveryId, Identity},
};

struct DeadLettersCli {
    queue: DeadLetterQueue,
    audit: MongoAudit,
    loaded: load::Loaded,
    identity: Identity,
}

/// What an operator decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    SendAgain,
    Remove,
}

pub(super) async fn run(
    config: Option<&Path>,
    queue: DeadLetterQueue,
    command: DeadLettersCommand,
) -> Result<ExitCode, Failure> {
    let (loaded, audit) = load::with_audit(config).await?;
    let identity = Identity::new(loaded.settings.pepper.expose());
    let cli = DeadLettersCli { queue, audit, loaded, identity };
    match command {
        DeadLettersCommand::List { filter, limit, json } => cli.list(&filter, limit, json).await,
        DeadLettersCommand::Show { delivery, event: true, .. } => cli.show_event(&delivery).await,
        DeadLettersCommand::Show { delivery, event: false, json } => {
            cli.show(&delivery, json).await
        }
        DeadLettersCommand::Replay { choice, correction } => {
            let correction = Correction::from_args(&correction)?;
            cli.decide(&choice, Decision::SendAgain, correction.as_ref()).await
        }
        DeadLettersCommand::Drop(choice) => cli.decide(&choice, Decision::Remove, None).await,
    }
}

impl DeadLettersCli {
    /// The records of what lies here, as far as the audit knows.
    async fn records(
        &self,
        filter: &DeadLettersFilter,
        limit: i64,
    ) -> Result<Vec<Record>, Failure> {
        let last_word = match self.queue {
            DeadLetterQueue::Dead => Status::Failed,
            DeadLetterQueue::Poison => Status::Rejected,
            DeadLetterQueue::Parked => Status::Unknown,
        };
        let aside = Aside {
            last_word,
            route: filter.route.as_deref(),
            kind: filter.kind.as_deref(),
            error: filter.error.as_deref(),
            recipient_hash: filter.recipient.as_deref().map(|it| self.identity.recipient_hash(it)),
            since: filter.since,
            until: filter.until,
        };
        let mut records = self.audit.aside(&aside, limit).await.map_err(Failure::unavailable)?;
        let removed = self.audit.removed(&records).await.map_err(Failure::unavailable)?;
        records.retain(|record| !removed.contains(record.delivery_id.as_str()));
        Ok(records)
    }

    async fn list(
        &self,
        filter: &DeadLettersFilter,
        limit: i64,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let mut records = self.records(filter, limit).await?;
        let mut unrecorded = Vec::new();
        if self.queue == DeadLetterQueue::Poison {
            // What was sent on its way again and understood has no other record under its old id, and
            // what no binding took has none at all.
            match self.look(|_| true).await {
                Ok((taken, found)) => {
                    taken.close().await;
                    let found =
                        found.into_iter().filter_map(|(message, _)| message.delivery_headers);
                    let mut lying: HashMap<_, _> = found
                        .map(|delivery_headers| {
                            (delivery_headers.delivery_id.clone(), delivery_headers)
                        })
                        .collect();
                    records.retain(|record| lying.remove(&record.delivery_id).is_some());
                    // Only that is from nowhere; the rest is recorded, and the limit leaves it out.
                    let from_nowhere = lying.into_values().filter(|it| it.origin.is_empty());
                    unrecorded
                        .extend(from_nowhere.filter(|_| *filter == DeadLettersFilter::default()));
                }
                Err(error) => print_err(&format!("usher: only what is recorded: {error:#}")),
            }
        }
        if json {
            for record in &records {
                print(&serde_json::to_string(record)?);
            }
            for delivery_headers in &unrecorded {
                print(&serde_json::to_string(delivery_headers)?);
            }
        } else if records.is_empty() && unrecorded.is_empty() {
            print(&format!("nothing in {}", self.queue.queue()));
        } else {
            let rows = records.iter().map(table::of_record);
            let rows = rows.chain(unrecorded.iter().map(table::of_headers));
            table::print_table(&rows.collect::<Vec<_>>());
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn show(&self, delivery: &str, json: bool) -> Result<ExitCode, Failure> {
        let delivery = delivery_id(delivery)?;
        let records = self.audit.history(&delivery).await.map_err(Failure::unavailable)?;
        if records.is_empty() {
            let hint = "--event shows what lies in the queue";
            let error = anyhow::anyhow!("no record of delivery {delivery}; {hint}");
            return Err(Failure::new(EXIT_DATA, error));
        }
        for record in &records {
            print(&if json {
                serde_json::to_string(record)?
            } else {
                serde_json::to_string_pretty(record)?
            });
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The event as it lies there, ready to be corrected.
    async fn show_event(&self, delivery: &str) -> Result<ExitCode, Failure> {
        let delivery = delivery_id(delivery)?;
        let (taken, found) = self.look(|id| *id == delivery).await.map_err(Failure::unavailable)?;
        taken.close().await;
        let Some((message, _)) = found.first() else {
            let queue = self.queue.queue();
            return Err(Failure::new(EXIT_DATA, anyhow::anyhow!("{delivery} is not in {queue}")));
        };
        print(&correction::readable(&message.body));
        Ok(ExitCode::SUCCESS)
    }

    /// Takes messages off the shelf; the rest goes back when what is given first is closed.
    async fn look(
        &self,
        is_wanted: impl Fn(&DeliveryId) -> bool,
    ) -> anyhow::Result<(Taken, Vec<(Message, Handle)>)> {
        let taken = Taken::open(&self.loaded.settings.rabbitmq, self.queue).await?;
        let bar = bar("looking through the queue", taken.count());
        let mut found = Vec::new();
        while let Some((message, handle)) = taken.next(&self.identity).await? {
            bar.inc(1);
            if message
                .delivery_headers
                .as_ref()
                .is_some_and(|delivery_headers| is_wanted(&delivery_headers.delivery_id))
            {
                found.push((message, handle));
            }
        }
        bar.finish_and_clear();
        Ok((taken, found))
    }

    /// The deliveries that were named, or that the filter finds.
    async fn chosen(&self, choice: &DeadLettersSelection) -> Result<HashSet<DeliveryId>, Failure> {
        let is_filtered = choice.filter != DeadLettersFilter::default();
        if is_filtered != choice.deliveries.is_empty() {
            let error = anyhow::anyhow!("name deliveries, or else filter: one of the two");
            return Err(Failure::new(EXIT_DATA, error));
        }
        if is_filtered {
            let records = self.records(&choice.filter, 0).await?;
            return Ok(records.into_iter().map(|record| record.delivery_id).collect());
        }
        choice.deliveries.iter().map(|text| delivery_id(text)).collect()
    }

    async fn decide(
        &self,
        choice: &DeadLettersSelection,
        decision: Decision,
        correction: Option<&Correction>,
    ) -> Result<ExitCode, Failure> {
        let mut missing = self.chosen(choice).await?;
        if correction.is_some_and(Correction::is_for_one) && missing.len() > 1 {
            let error = anyhow::anyhow!("{} deliveries can't all be this event", missing.len());
            return Err(Failure::new(EXIT_DATA, error));
        }
        let look = self.look(|delivery| missing.contains(delivery)).await;
        let (taken, found) = look.map_err(Failure::unavailable)?;
        let (mut selected, mut refused) = (Vec::new(), false);
        for (message, handle) in found {
            let Some(delivery_headers) = message.delivery_headers.clone() else { continue };
            missing.remove(&delivery_headers.delivery_id);
            let id = &delivery_headers.delivery_id;
            match self
                .select(decision, message, delivery_headers.clone(), correction, &choice.reason)
                .await?
            {
                Err(reason) => {
                    print(&format!("{id} refused: {}", table::visible(&reason)));
                    refused = true;
                }
                Ok(select) => {
                    if !choice.yes {
                        print(&format!("{id} would be {}", done(decision)));
                    }
                    select
                        .changes()
                        .for_each(|line| print(&format!("  {}", table::visible(&line))));
                    selected.push((select, handle));
                }
            }
        }
        for delivery in &missing {
            print(&format!("{delivery} is not in {}", self.queue.queue()));
        }
        if !selected.is_empty() && (choice.yes || confirmed(selected.len()).await) {
            self.carry_out(choice, decision, selected).await?;
        } else if !selected.is_empty() {
            print("nothing was done; --yes does it");
            selected
                .iter()
                .filter_map(|(select, _)| select.file.as_deref())
                .for_each(|it| print(&kept(it)));
        } else if !refused && missing.is_empty() {
            print(&format!("nothing in {}", self.queue.queue()));
        }
        taken.close().await;
        // A filter may find what was sent on its way again and has not arrived yet.
        let ok = !refused && (missing.is_empty() || choice.deliveries.is_empty());
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }

    async fn carry_out(
        &self,
        choice: &DeadLettersSelection,
        decision: Decision,
        selected: Vec<(Selection, Handle)>,
    ) -> Result<(), Failure> {
        let settings = &self.loaded.settings;
        let topology = Topology::new(self.loaded.routing.queues(), &settings.retry_schedule);
        let broker = AmqpBroker::new(settings.rabbitmq.clone(), Arc::new(topology));
        let total = selected.len();
        let bar = bar(done(decision), total as u64);
        for (number, (select, handle)) in selected.into_iter().enumerate() {
            let (id, file) = (select.delivery.clone(), select.file.clone());
            let carried_out = async {
                let action = Action {
                    by: choice.by.clone(),
                    action: self.word(decision),
                    target: id.to_string(),
                    reason: choice.reason.clone(),
                };
                self.audit.act_with(&action, select.correction()).await?;
                select.publish(&broker).await?;
                handle.remove().await
            };
            let carried_out = carried_out.await;
            let carried_out =
                carried_out.with_context(|| format!("{number} of {total} were {}", done(decision)));
            carried_out.map_err(Failure::unavailable)?;
            // It is in the message now; personal data don't lie around in files.
            if let Some(file) = file {
                std::fs::remove_file(file)?;
            }
            bar.suspend(|| print(&format!("{id} {}", done(decision))));
            bar.inc(1);
        }
        bar.finish_and_clear();
        broker.close().await;
        Ok(())
    }

    fn word(&self, decision: Decision) -> &'static str {
        match (self.queue, decision) {
            (DeadLetterQueue::Parked, Decision::SendAgain) => "resend",
            (DeadLetterQueue::Parked, Decision::Remove) => "dismiss",
            (_, Decision::SendAgain) => "replay",
            (_, Decision::Remove) => "drop",
        }
    }
}

fn done(decision: Decision) -> &'static str {
    match decision {
        Decision::SendAgain => "sent on its way again",
        Decision::Remove => "removed",
    }
}

/// Whether somebody is there to say yes, and does.
async fn confirmed(count: usize) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    let answer = tokio::task::spawn_blocking(move || {
        let _ = write!(std::io::stderr(), "do it ({count})? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
    matches!(answer.trim(), "y" | "Y" | "yes")
}

/// How far it is, on a terminal only.
fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what)
}

pub(super) fn delivery_id(text: &str) -> Result<DeliveryId, Failure> {
    DeliveryId::from_stored(text)
        .map_err(|text| Failure::new(EXIT_DATA, anyhow::anyhow!("{text:?} is no delivery id")))
}
