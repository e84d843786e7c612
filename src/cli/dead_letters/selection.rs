//! `replay` (for parked mail `resend`) and `drop` (`dismiss`). The reason is recorded before anything is
//! done, and nothing is done without `--yes` or a confirmation on the terminal.

use std::{collections::HashSet, process::ExitCode, sync::Arc};

use anyhow::Context;
use jiff::Timestamp;

use super::{
    DeadLettersCli, DeadLettersFilter, SelectionArgs,
    correction::Correction,
    disposition::{Disposition, Outcome},
    editor::kept_file_hint,
};
use crate::{
    audit::{Audit, store::actions::Action},
    broker::{
        Message,
        amqp::{AckHandle, DeadLetterQueue},
    },
    cli::{
        decision::{DecisionArgs, NOTHING_DONE},
        delivery_id, open_broker,
        output::{confirm, print, progress},
    },
    failure::{EXIT_DATA, Failure},
    routing::DeliveryId,
    status_events::{self, StatusEvent, StatusEvents},
    supervisor::Supervisor,
    text::one_line,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Replay,
    Drop(Option<Outcome>),
}

impl Decision {
    fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop(_) => "removed",
        }
    }
}

impl DeadLettersCli {
    pub(super) async fn decide(
        &self,
        args: &SelectionArgs,
        decision: Decision,
        correction: Option<&Correction>,
    ) -> Result<ExitCode, Failure> {
        let by = args.decision.by.name()?;
        let mut missing = self.selected_ids(args).await?;
        if correction.is_some_and(Correction::is_for_one) && missing.len() > 1 {
            let count = missing.len();
            return Err(Failure::data(format!("{count} deliveries can't all have this event")));
        }
        let messages = self.take(|delivery| missing.contains(delivery)).await;
        let (taken, messages) = messages.map_err(Failure::unavailable)?;
        for (message, _) in &messages {
            if let Some(headers) = &message.delivery_headers {
                missing.remove(&headers.delivery_id);
            }
        }
        let (selected, refused) = self.select_all(args, decision, correction, messages).await?;
        for delivery in &missing {
            print(&format!("{delivery} is not in {}", self.queue.queue()));
        }
        if selected.is_empty() {
            if refused == 0 && missing.is_empty() {
                self.print_nothing(&args.filter).await?;
            }
        } else if args.decision.yes || confirm(format!("do it ({})?", selected.len())).await {
            self.carry_out(&args.decision, &by, decision, selected).await?;
        } else {
            print(NOTHING_DONE);
            let edited = selected.iter().filter_map(|(selection, _)| selection.file.as_deref());
            edited.for_each(|file| print(&kept_file_hint(file)));
        }
        taken.close().await;
        // A filter may match messages that were replayed and are still on their way.
        let ok = refused == 0 && (missing.is_empty() || args.deliveries.is_empty());
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DATA) })
    }

    async fn selected_ids(&self, args: &SelectionArgs) -> Result<HashSet<DeliveryId>, Failure> {
        let is_filtered = args.filter != DeadLettersFilter::default();
        if is_filtered != args.deliveries.is_empty() {
            return Err(Failure::data("name deliveries or use filters, not both"));
        }
        if is_filtered {
            let letters = self.dead_letters(&args.filter).await?;
            return Ok(letters.into_iter().map(|letter| letter.delivery_id).collect());
        }
        args.deliveries.iter().map(|text| delivery_id(text)).collect()
    }

    /// Returns the messages that may be handled, and the number of those that may not.
    async fn select_all(
        &self,
        args: &SelectionArgs,
        decision: Decision,
        correction: Option<&Correction>,
        messages: Vec<(Message, AckHandle)>,
    ) -> Result<(Vec<(Disposition, AckHandle)>, usize), Failure> {
        let (mut selected, mut refused) = (Vec::new(), 0);
        for (message, handle) in messages {
            let Some(headers) = message.delivery_headers.clone() else { continue };
            let id = headers.delivery_id.clone();
            let selection = match decision {
                Decision::Drop(outcome) => Ok(Disposition::drop(id.clone(), outcome)),
                Decision::Replay => {
                    self.disposition_of_replay(message, headers, correction, &args.decision.reason)
                        .await?
                }
            };
            match selection {
                Err(reason) => {
                    print(&format!("{id} refused: {}", one_line(&reason)));
                    refused += 1;
                }
                Ok(selection) => {
                    if !args.decision.yes {
                        print(&format!("{id} would be {}", decision.done()));
                    }
                    for change in &selection.corrected {
                        print(&format!("  {}", one_line(&change.to_string())));
                    }
                    selected.push((selection, handle));
                }
            }
        }
        Ok((selected, refused))
    }

    async fn carry_out(
        &self,
        args: &DecisionArgs,
        by: &str,
        decision: Decision,
        selected: Vec<(Disposition, AckHandle)>,
    ) -> Result<(), Failure> {
        let settings = &self.loaded.settings;
        let broker = open_broker(&self.loaded);
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let status_events = settings
            .status_events
            .then(|| StatusEvents::new(broker.clone(), &instance, &Supervisor::default()));
        let total = selected.len();
        let progress = progress(decision.done(), total as u64);
        for (number, (selection, handle)) in selected.into_iter().enumerate() {
            let id = selection.delivery.clone();
            let result = async {
                let action = Action {
                    by: by.to_owned(),
                    action: self.action(decision),
                    target: id.to_string(),
                    reason: args.reason.clone(),
                };
                // Older than the action, which takes the mail off the lists.
                let outcome = self.outcome_record(&selection, by, &args.reason).await?;
                let correction = selection.correction(&self.loaded.routing);
                self.audit.record_correction(&action, correction).await?;
                if let Some(record) = outcome {
                    self.audit.write(Arc::new(record)).await?;
                }
                if let Some(events) = &status_events {
                    self.publish_status(events, &id, decision).await?;
                }
                selection.publish(&broker).await?;
                handle.remove().await
            };
            result
                .await
                .with_context(|| format!("{number} of {total} were {}", decision.done()))
                .map_err(Failure::unavailable)?;
            // The message has the event now; personal data must not stay in files.
            if let Some(file) = selection.file {
                std::fs::remove_file(file)?;
            }
            progress.suspend(|| print(&format!("{id} {}", decision.done())));
            progress.inc(1);
        }
        progress.finish_and_clear();
        broker.close().await;
        Ok(())
    }

    /// Publishes what the operator does. A message without a record has no status event.
    async fn publish_status(
        &self,
        events: &StatusEvents,
        delivery: &DeliveryId,
        decision: Decision,
    ) -> anyhow::Result<()> {
        let Some(record) = self.audit.last(delivery).await? else { return Ok(()) };
        let action = match (self.queue, decision) {
            (_, Decision::Replay) => status_events::Action::Replayed,
            (DeadLetterQueue::Parked, Decision::Drop(_)) => status_events::Action::Dismissed,
            (_, Decision::Drop(_)) => status_events::Action::Dropped,
        };
        let id = uuid::Uuid::new_v4().simple().to_string();
        let event = StatusEvent::of_action(&record, action, &id, Timestamp::now());
        Ok(events.publish(&Arc::new(event)).await?)
    }

    fn action(&self, decision: Decision) -> &'static str {
        match (self.queue, decision) {
            (DeadLetterQueue::Parked, Decision::Replay) => "resend",
            (DeadLetterQueue::Parked, Decision::Drop(_)) => "dismiss",
            (_, Decision::Replay) => "replay",
            (_, Decision::Drop(_)) => "drop",
        }
    }
}
