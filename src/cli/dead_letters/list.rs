//! `list` and `show`. Both read the audit; `poison list` also reads the queue, because messages that no
//! binding took never passed through usher and have no record.

use std::{collections::HashMap, process::ExitCode};

use console::Style;

use super::{DeadLettersCli, DeadLettersFilter, editor::readable};
use crate::{
    audit::Record,
    broker::{DeliveryHeaders, amqp::DeadLetterQueue},
    cli::{
        delivery_id,
        output::{Column, Table, print, print_err, print_json, width},
    },
    failure::Failure,
};

const COLUMNS: [Column; 7] = [
    Column::Whole("AT (UTC)"),
    Column::Whole("DELIVERY"),
    Column::Text("TYPE"),
    Column::Whole("ATTEMPT"),
    Column::Text("RECIPIENT"),
    Column::Text("ERROR"),
    Column::Text("REASON"),
];

impl DeadLettersCli {
    pub(super) async fn list(
        &self,
        filter: &DeadLettersFilter,
        limit: i64,
        json: bool,
    ) -> Result<ExitCode, Failure> {
        let mut records = self.records(filter, limit).await?;
        let mut unrecorded = Vec::new();
        if self.queue == DeadLetterQueue::Poison {
            match self.queued().await {
                Ok(mut queued) => {
                    // A message that was replayed and then understood has no later record under its old id.
                    records.retain(|record| queued.remove(record.delivery_id.as_str()).is_some());
                    if *filter == DeadLettersFilter::default() {
                        // Others without a record here are beyond the limit.
                        let queued = queued.into_values();
                        unrecorded.extend(queued.filter(|headers| headers.origin.is_empty()));
                    }
                }
                Err(error) => {
                    print_err(&format!(
                        "usher: the queue was not read, only records are listed: {error:#}"
                    ));
                }
            }
        }
        if json {
            records.iter().try_for_each(print_json)?;
            unrecorded.iter().try_for_each(print_json)?;
        } else if records.is_empty() && unrecorded.is_empty() {
            print(&format!("nothing in {}", self.queue.queue()));
        } else {
            print_table(&records, &unrecorded);
        }
        Ok(ExitCode::SUCCESS)
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
        let delivery = delivery_id(delivery)?;
        let records = self.audit.history(&delivery).await.map_err(Failure::unavailable)?;
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
        let delivery = delivery_id(delivery)?;
        let (taken, messages) =
            self.take(|id| *id == delivery).await.map_err(Failure::unavailable)?;
        taken.close().await;
        let Some((message, _)) = messages.first() else {
            return Err(Failure::data(format!("{delivery} is not in {}", self.queue.queue())));
        };
        print(&readable(&message.body));
        Ok(ExitCode::SUCCESS)
    }
}

fn print_table(records: &[Record], unrecorded: &[DeliveryHeaders]) {
    let mut table = Table::new(&COLUMNS, width());
    let mut add = |cells: [&str; COLUMNS.len()]| {
        let cells = cells.map(|cell| if cell.is_empty() { "-" } else { cell });
        table.add(&cells, Style::new());
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
        ]);
    }
    for headers in unrecorded {
        add(["", headers.delivery_id.as_str(), "", "", "", "unroutable", &headers.reason]);
    }
    table.print();
}
