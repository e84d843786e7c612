//! `replay` (for parked mail `resend`) and `drop` (`dismiss`). The reason is recorded before anything is
//! done, and nothing is done without `--yes` or a confirmation on the terminal.

use std::{collections::HashSet, path::PathBuf, process::ExitCode};

use anyhow::Context;

use super::{
    DeadLettersCli, DeadLettersFilter, SelectionArgs,
    correction::{Corrected, Correction},
    editor::kept_file_hint,
    field_changes::Change,
};
use crate::{
    broker::{DeliveryHeaders, Message, amqp::AckHandle},
    cli::{
        decision::{DecisionArgs, NOTHING_DONE},
        delivery_ids, open_broker,
        output::{confirm, print, print_err, progress},
    },
    delivery::dead_letters::{Decided, Disposition, Outcome},
    failure::{EXIT_DATA, Failure},
    routing::DeliveryId,
    status_events::StatusEvents,
    supervisor::Supervisor,
    text::one_line,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Replay,
    Drop(Option<Outcome>),
}

/// A message that may be handled.
struct Selected {
    disposition: Disposition,
    handle: AckHandle,
    /// Fields that an operator corrected.
    changes: Vec<Change>,
    /// File in which the event was edited.
    file: Option<PathBuf>,
}

impl Decision {
    fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop(None) => "removed",
            Self::Drop(Some(Outcome::Delivered)) => "recorded as delivered, and removed",
            Self::Drop(Some(Outcome::Lost)) => "recorded as lost, and removed",
            Self::Drop(Some(Outcome::Void)) => "recorded as void, and removed",
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
        let (count, done) = (selected.len(), decision.done());
        for delivery in &missing {
            print(&format!("{delivery} is not in {}", self.queue.queue()));
        }
        if selected.is_empty() {
            if refused == 0 && missing.is_empty() {
                self.print_nothing(&args.filter).await?;
            }
        } else if args.decision.yes || confirm(format!("do it ({})?", selected.len())).await {
            self.carry_out(&args.decision, &by, decision, selected).await?;
            print_err(&format!("{count} {done}, {refused} refused"));
        } else {
            print_err(&format!("{count} would be {done}, {refused} refused"));
            print(NOTHING_DONE);
            let edited = selected.iter().filter_map(|selected| selected.file.as_deref());
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
        let mut ids = HashSet::new();
        for text in &args.deliveries {
            ids.insert(delivery_ids::from_beginning(&*self.reads, text).await?);
        }
        Ok(ids)
    }

    /// Returns the messages that may be handled, and the number of those that may not.
    async fn select_all(
        &self,
        args: &SelectionArgs,
        decision: Decision,
        correction: Option<&Correction>,
        messages: Vec<(Message, AckHandle)>,
    ) -> Result<(Vec<Selected>, usize), Failure> {
        let (mut selected, mut refused) = (Vec::new(), 0);
        for (message, handle) in messages {
            let Some(headers) = message.delivery_headers.clone() else { continue };
            let id = headers.delivery_id.clone();
            let selection = match decision {
                Decision::Drop(outcome) => {
                    let disposition = Disposition::removal(id.clone(), outcome);
                    Ok(Selected { disposition, handle, changes: Vec::new(), file: None })
                }
                Decision::Replay => {
                    let replay = (message, headers, handle);
                    let selection = self.select_replay(replay, correction, &args.decision.reason);
                    selection.await.map_err(Failure::unavailable)?
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
                    for change in &selection.changes {
                        print(&format!("  {}", one_line(&change.to_string())));
                    }
                    selected.push(selection);
                }
            }
        }
        Ok((selected, refused))
    }

    /// Selects a message for replay, as it is or corrected, or says why it is refused.
    async fn select_replay(
        &self,
        (message, headers, handle): (Message, DeliveryHeaders, AckHandle),
        correction: Option<&Correction>,
        reason: &str,
    ) -> anyhow::Result<Result<Selected, String>> {
        let handling = self.handling();
        let delivery = headers.delivery_id.clone();
        let headers = match handling.headers_for_replay(&message, headers).await? {
            Err(reason) => return Ok(Err(reason)),
            Ok(headers) => headers,
        };
        let corrected = match correction {
            None => handling.unchanged(message, headers, reason).map(Corrected::unchanged),
            Some(correction) => self.correct(&message, &headers, correction, reason).await,
        };
        let corrected = match corrected {
            Err(reason) => return Ok(Err(reason)),
            Ok(corrected) => corrected,
        };
        let records = corrected.records(&self.loaded.routing);
        let Corrected { publication, changes, file } = corrected;
        let disposition = handling.replay(delivery, publication, records).await?;
        Ok(disposition.map(|disposition| Selected { disposition, handle, changes, file }))
    }

    async fn carry_out(
        &self,
        args: &DecisionArgs,
        by: &str,
        decision: Decision,
        selected: Vec<Selected>,
    ) -> Result<(), Failure> {
        let settings = &self.loaded.settings;
        let broker = open_broker(&self.loaded);
        let instance = uuid::Uuid::new_v4().simple().to_string();
        let status_events = settings
            .status_events
            .then(|| StatusEvents::new(broker.clone(), &instance, &Supervisor::default()));
        let decided = Decided { by, reason: &args.reason };
        let total = selected.len();
        let progress = progress(decision.done(), total as u64);
        for (number, Selected { disposition, handle, file, .. }) in selected.into_iter().enumerate()
        {
            self.handling()
                .carry_out(&disposition, handle, &decided, &broker, status_events.as_ref())
                .await
                .with_context(|| format!("{number} of {total} were {}", decision.done()))
                .map_err(Failure::unavailable)?;
            // The message has the event now; personal data must not stay in files.
            if let Some(file) = file {
                std::fs::remove_file(file)?;
            }
            progress.suspend(|| print(&format!("{} {}", disposition.delivery, decision.done())));
            progress.inc(1);
        }
        progress.finish_and_clear();
        broker.close().await;
        Ok(())
    }
}
