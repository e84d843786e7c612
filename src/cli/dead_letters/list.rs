//! `list` and `show`. Both read the audit; `poison list` also reads the queue, because messages that no
//! binding took never passed through usher and have no record.

use std::{collections::HashMap, process::ExitCode};

use console::Style;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{DeadLettersCli, DeadLettersFilter, editor::readable};
use crate::{
    audit::{Record, store::actions::DeadLetter},
    broker::{DeliveryHeaders, amqp::DeadLetterQueue},
    cli::{
        delivery_ids,
        listing::{GroupBy, ListArgs, domain},
        output::{Column, Table, print, print_err, print_json, width},
    },
    failure::Failure,
    routing::ChannelKind,
    text::kind_of_reason,
};

/// How long after a mail its server may still report it: it gives up after four to five days (RFC 5321
/// 4.5.4.1).
const BOUNCES_WITHIN: SignedDuration = SignedDuration::from_hours(5 * 24);

const COLUMNS: [Column; 7] = [
    Column::Whole("AT (UTC)"),
    Column::Whole("DELIVERY"),
    Column::Text("TYPE"),
    Column::Whole("ATTEMPT"),
    Column::Text("RECIPIENT"),
    Column::Text("ERROR"),
    Column::Text("REASON"),
];

/// What may still help with parked mail.
#[derive(Default)]
struct Awaited {
    /// Until when a receipt may say what became of it: to its return path, or from SES.
    receipt: Option<Timestamp>,
    /// Until when its relay knows its key: sent again before, it is no second mail.
    key: Option<Timestamp>,
}

impl Awaited {
    fn shown(&self, now: Timestamp) -> String {
        let key = self.key.filter(|until| *until > now);
        let key = key.map(|until| until.strftime("its key is known until %Y-%m-%d %H:%M"));
        let receipt = self.receipt.map(|until| match until > now {
            true => until.strftime("a receipt until %Y-%m-%d %H:%M"),
            false => until.strftime("nothing since %Y-%m-%d %H:%M"),
        });
        let parts = [key, receipt].into_iter().flatten().map(|part| part.to_string());
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl DeadLettersCli {
    pub(super) async fn list(
        &self,
        filter: &DeadLettersFilter,
        args: &ListArgs,
    ) -> Result<ExitCode, Failure> {
        let mut letters = self.dead_letters(filter).await?;
        let mut unrecorded = Vec::new();
        if self.queue == DeadLetterQueue::Poison && !self.is_embedded {
            match self.queued().await {
                Ok(mut queued) => {
                    // A message that was replayed and then understood has no later record under its old id.
                    letters.retain(|letter| queued.remove(letter.delivery_id.as_str()).is_some());
                    if *filter == DeadLettersFilter::default() {
                        unrecorded.extend(queued.into_values());
                    }
                }
                Err(error) => {
                    print_err(&format!(
                        "usher: the queue was not read, only records are listed: {error:#}"
                    ));
                }
            }
        }
        let total = letters.len() + unrecorded.len();
        if total == 0 {
            if !args.json {
                self.print_nothing(filter).await?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(by) = args.group_by {
            let now = Timestamp::now();
            let recorded = letters.iter().map(|letter| (self.group_of(letter, by), letter.at));
            let others = unrecorded.iter().map(|headers| {
                (group_of_unrecorded(headers, by), headers.arrived_at.unwrap_or(now))
            });
            args.print_groups(recorded.chain(others));
            return Ok(ExitCode::SUCCESS);
        }
        letters.truncate(args.limit());
        unrecorded.truncate(args.limit() - letters.len());
        let records = self.reads.final_records(&letters).await.map_err(Failure::unavailable)?;
        if args.json {
            for record in &records {
                let mut shown = serde_json::to_value(record)?;
                let Awaited { receipt, key } = self.awaited(record);
                if receipt.or(key).is_some() {
                    let times = [("receipt_until", receipt), ("key_until", key)];
                    let times = times.into_iter().filter(|(_, until)| until.is_some());
                    shown["awaited"] = times.map(|(name, until)| (name, json!(until))).collect();
                }
                print_json(&shown)?;
            }
            unrecorded.iter().try_for_each(print_json)?;
        } else {
            self.print_table(&records, &unrecorded);
        }
        args.print_total(records.len() + unrecorded.len(), total);
        Ok(ExitCode::SUCCESS)
    }

    /// Tells an empty queue from a filter that nothing matches.
    pub(super) async fn print_nothing(&self, filter: &DeadLettersFilter) -> Result<(), Failure> {
        let queue = self.queue.queue();
        let others = match *filter == DeadLettersFilter::default() {
            true => 0,
            false => self.dead_letters(&DeadLettersFilter::default()).await?.len(),
        };
        match others {
            0 => print(&format!("nothing in {queue}")),
            _ => {
                print(&format!(
                    "nothing in {queue} matches; without the filter there are {others}"
                ));
            }
        }
        Ok(())
    }

    fn group_of(&self, letter: &DeadLetter, by: GroupBy) -> String {
        match by {
            GroupBy::Error => letter.error_group(),
            GroupBy::Route => letter.route.clone(),
            GroupBy::Type => letter.event.kind.clone(),
            // An event may name a source of its own.
            GroupBy::Queue => match self.loaded.routing.route(&letter.route) {
                Some(route) => route.queue.clone(),
                None => letter.event.source.clone(),
            },
            GroupBy::Domain => domain(&letter.recipient),
        }
    }

    /// Headers of all messages in the queue, by delivery id.
    async fn queued(&self) -> anyhow::Result<HashMap<String, DeliveryHeaders>> {
        let (taken, messages) = self.take(|_| true).await?;
        taken.close().await;
        let headers = messages.into_iter().filter_map(|(message, _)| {
            let is_authentic = message.is_authentic;
            message.delivery_headers.map(|it| if is_authentic { it } else { it.doubted() })
        });
        Ok(headers.map(|headers| (headers.delivery_id.to_string(), headers)).collect())
    }

    pub(super) async fn show(&self, delivery: &str, json: bool) -> Result<ExitCode, Failure> {
        let delivery = delivery_ids::from_beginning(&*self.reads, delivery).await?;
        let records = self.reads.history(&delivery).await.map_err(Failure::unavailable)?;
        if records.is_empty() {
            let hint = "--event shows the message in the queue";
            return Err(Failure::data(format!("no record of delivery {delivery}; {hint}")));
        }
        for record in &records {
            match json {
                true => print_json(record)?,
                false => print(&serde_json::to_string_pretty(record)?),
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints the event so that it can be edited and replayed by `--with`.
    pub(super) async fn show_event(&self, delivery: &str) -> Result<ExitCode, Failure> {
        let delivery = delivery_ids::from_beginning(&*self.reads, delivery).await?;
        let (taken, messages) =
            self.take(|id| *id == delivery).await.map_err(Failure::unavailable)?;
        taken.close().await;
        let Some((message, _)) = messages.first() else {
            return Err(Failure::data(format!("{delivery} is not in {}", self.queue.queue())));
        };
        print(&readable(&message.body));
        Ok(ExitCode::SUCCESS)
    }

    fn awaited(&self, record: &Record) -> Awaited {
        if self.queue != DeadLetterQueue::Parked || record.channel != Some(ChannelKind::Email) {
            return Awaited::default();
        }
        let repeatable = record.message.as_ref().and_then(|message| message.repeatable);
        Awaited { receipt: self.receipt_until(record), key: repeatable.map(|it| it.until) }
    }

    fn receipt_until(&self, record: &Record) -> Option<Timestamp> {
        let relays = self.loaded.settings.email.backend.relays();
        let relay = match &record.relay {
            Some(name) => relays.iter().find(|relay| relay.name == *name),
            None => relays.first(),
        };
        let has_topics =
            self.loaded.settings.api.as_ref().is_some_and(|it| !it.ses_topics.is_empty());
        relay.filter(|relay| has_topics || relay.bounce_address.is_some())?;
        record.at.checked_add(BOUNCES_WITHIN).ok()
    }

    fn print_table(&self, records: &[Record], unrecorded: &[DeliveryHeaders]) {
        let mut columns = COLUMNS.to_vec();
        if self.queue == DeadLetterQueue::Parked {
            columns.push(Column::Whole("AWAITED (UTC)"));
        }
        let mut table = Table::new(&columns, width());
        let mut add = |cells: [&str; COLUMNS.len() + 1]| {
            let cells = cells.map(|cell| if cell.is_empty() { "-" } else { cell });
            table.add(&cells[..columns.len()], Style::new());
        };
        for record in records {
            let error = record.error.as_ref();
            add([
                &record.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
                record.delivery_id.as_str(),
                &record.event.kind,
                &record.attempt.to_string(),
                &record.recipient,
                error.map_or("", |error| &error.kind),
                error.map_or("", |error| &error.message),
                &self.awaited(record).shown(Timestamp::now()),
            ]);
        }
        for headers in unrecorded {
            let kind = if headers.origin.is_empty() { "unroutable" } else { "" };
            let id = headers.delivery_id.as_str();
            add(["", id, "", "", &headers.recipient, kind, &headers.reason, ""]);
        }
        table.print();
    }
}

fn group_of_unrecorded(headers: &DeliveryHeaders, by: GroupBy) -> String {
    match by {
        GroupBy::Error => kind_of_reason(&headers.reason),
        GroupBy::Route => headers.route.clone(),
        GroupBy::Type => String::new(),
        GroupBy::Queue => headers.origin.clone(),
        GroupBy::Domain => domain(&headers.recipient),
    }
}
