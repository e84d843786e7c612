//! `usher audit erase`: removes a recipient's personal data. Counts what it finds; `--yes` erases it.

use std::{collections::HashSet, process::ExitCode, time::Duration};

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::AuditCli;
use crate::{
    api::outbox::MongoRequests,
    app::configuration::{self, Configuration},
    audit::{
        Record,
        store::{actions::Action, erase::Person},
    },
    broker::{
        Message,
        amqp::{AckHandle, DeadLetterQueue, DeadLetterReader},
    },
    channel::sms,
    cli::{
        decision::{DecisionArgs, NOTHING_DONE},
        output::print,
    },
    config::Endpoint,
    delivery::erased_recipient::RECENT,
    erasure::{Erasure, Found},
    failure::Failure,
    ledger::redis::RedisLedger,
    redaction::AddressMatcher,
    routing::{DeliveryId, Recipients},
    scheduler::mongo::MongoScheduler,
    supervisor::Supervisor,
};

const DEAD_LETTER_QUEUES: [DeadLetterQueue; 3] =
    [DeadLetterQueue::Dead, DeadLetterQueue::Parked, DeadLetterQueue::Poison];

#[derive(Debug, Args)]
pub(in crate::cli) struct EraseArgs {
    /// Address to erase, in upper or lower case, or phone number with its plus sign.
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    recipient: String,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// The messages in one queue that mention the recipient.
struct QueueMatches {
    taken: DeadLetterReader,
    queue: &'static str,
    messages: Vec<(Message, AckHandle)>,
}

impl AuditCli {
    pub(super) async fn erase(
        &self,
        args: &EraseArgs,
        loaded: &Configuration,
    ) -> Result<ExitCode, Failure> {
        let by = args.decision.by.name()?;
        let matcher = AddressMatcher::new(&args.recipient);
        let recipient = recipient(&args.recipient)?;
        let hash = self.identity.recipient_hash(&recipient);
        let fixed_routes = fixed_routes(loaded);
        let supervisor = Supervisor::default();
        let database = self.audit.database();
        let erasure = Erasure {
            audit: &self.audit,
            scheduler: MongoScheduler::new(database, &supervisor),
            requests: MongoRequests::new(database, loaded.settings.audit_retention),
            person: Person { matcher: &matcher, hash: &hash, fixed_routes: &fixed_routes },
        };
        let ledger = configuration::open_ledger(&loaded.settings, &supervisor)?;
        let reason = matcher.cut_from(&args.decision.reason);
        let record = async |target: &str| {
            let (by, target) = (by.clone(), target.to_owned());
            let action = Action { by, action: "erase", target, reason: reason.clone() };
            self.audit.record_action(&action).await.map_err(Failure::unavailable)
        };
        let started = Timestamp::now();
        if args.decision.yes {
            // From here on, running instances erase new records of this recipient themselves.
            record(&hash).await?;
            self.put_tombstone(&hash, started, loaded.settings.audit_retention).await?;
        }
        let found = erasure.find().await.map_err(Failure::unavailable)?;
        if args.decision.yes {
            for linked in &found.records.linked_hashes {
                self.put_tombstone(linked, started, loaded.settings.audit_retention).await?;
            }
        }
        let ledger_records = self
            .ledger_records(&ledger, &found, &erasure.person, started, args.decision.yes)
            .await?;
        // Last, because the broker takes back messages that are held for long.
        let mut queues = Vec::new();
        for queue in DEAD_LETTER_QUEUES {
            let matches = self.find_in_queue(&loaded.settings.rabbitmq, queue, &matcher).await;
            queues.push(matches.map_err(Failure::unavailable)?);
        }
        print_found(&hash, &found, ledger_records, &queues);
        for queue in queues {
            if args.decision.yes {
                for (message, handle) in queue.messages {
                    if let Some(headers) = &message.delivery_headers {
                        record(headers.delivery_id.as_str()).await?;
                    }
                    handle.remove().await.map_err(Failure::unavailable)?;
                }
            }
            queue.taken.close().await;
        }
        if !args.decision.yes {
            print(NOTHING_DONE);
            return Ok(ExitCode::SUCCESS);
        }
        erasure.erase(&found, started).await.map_err(Failure::unavailable)?;
        let late = self.erase_late(&ledger, &erasure, &found, started).await?;
        let late = match late {
            0 => String::new(),
            count => format!(", and {count} that were written meanwhile"),
        };
        print(&format!(
            "erased{late}; a mail that is being sent right now may still leave a record: erase again to be sure"
        ));
        Ok(ExitCode::SUCCESS)
    }

    async fn put_tombstone(
        &self,
        hash: &str,
        at: Timestamp,
        retention: Duration,
    ) -> Result<(), Failure> {
        let retention = SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX);
        let until = at.checked_add(retention).unwrap_or(Timestamp::MAX);
        self.audit.put_tombstone(hash, at, until).await.map_err(Failure::unavailable)
    }

    /// Erases records of deliveries that began before the tombstone was seen; returns their number.
    async fn erase_late(
        &self,
        ledger: &RedisLedger,
        erasure: &Erasure<'_>,
        found: &Found,
        started: Timestamp,
    ) -> Result<usize, Failure> {
        let elapsed = Timestamp::now().duration_since(started);
        let wait = Duration::try_from(RECENT - elapsed).unwrap_or_default();
        tokio::time::sleep(wait).await;
        let late = erasure.find_late(found).await.map_err(Failure::unavailable)?;
        self.ledger_records(ledger, &late, &erasure.person, started, true).await?;
        erasure.erase(&late, started).await.map_err(Failure::unavailable)?;
        Ok(late.records.own.len())
    }

    /// Number of the deliveries' records that the ledger keeps; `erase` changes them.
    async fn ledger_records(
        &self,
        ledger: &RedisLedger,
        found: &Found,
        person: &Person<'_>,
        at: Timestamp,
        erase: bool,
    ) -> Result<u64, Failure> {
        let mut count = 0;
        for delivery in &found.records.deliveries {
            let Ok(delivery) = DeliveryId::from_stored(delivery) else { continue };
            let rewrite = |json: &str| {
                let mut record: Record = serde_json::from_str(json).ok()?;
                if record.erased_at.is_some() && record.recipient.is_empty() {
                    return None;
                }
                match record.recipient_hash == person.hash
                    || found.records.linked_hashes.contains(&record.recipient_hash)
                    || person.matcher.is_in(&record.recipient)
                {
                    true => record.erase(at),
                    false => record.forget(at),
                }
                serde_json::to_string(&record).ok()
            };
            let is_changed = if erase {
                ledger.rewrite_record(&delivery, rewrite).await.map_err(Failure::unavailable)?
            } else {
                let record = ledger.record(&delivery).await.map_err(Failure::unavailable)?;
                record.is_some_and(|json| rewrite(&json).is_some())
            };
            count += u64::from(is_changed);
        }
        Ok(count)
    }

    async fn find_in_queue(
        &self,
        server: &Endpoint,
        queue: DeadLetterQueue,
        matcher: &AddressMatcher,
    ) -> anyhow::Result<QueueMatches> {
        let taken = DeadLetterReader::open(server, queue).await?;
        let mut messages = Vec::new();
        while let Some((message, handle)) = taken.next(&self.identity).await? {
            let is_in_headers = message.delivery_headers.as_ref().is_some_and(|headers| {
                matcher.is_in(&headers.recipient) || matcher.is_in(&headers.reason)
            });
            if is_in_headers || matcher.is_in_body(&message.body) {
                messages.push((message, handle));
            }
        }
        Ok(QueueMatches { taken, queue: queue.queue(), messages })
    }
}

/// The address as it is, or the number in E.164 form.
fn recipient(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    if text.contains('@') {
        return Ok(text.to_owned());
    }
    let number: String = text.chars().filter(|c| *c == '+' || c.is_ascii_digit()).collect();
    let reason = format!("{text:?} is neither an address nor a number such as +573001234567");
    sms::check_recipient(&number).map(|()| number).map_err(|_| Failure::data(reason))
}

/// Names of the routes whose recipients stand in the settings.
fn fixed_routes(loaded: &Configuration) -> HashSet<String> {
    let routes = loaded.routing.routes().into_iter();
    let fixed = routes.filter(|route| matches!(route.recipients, Recipients::Fixed(_)));
    fixed.map(|route| route.name.clone()).collect()
}

fn print_found(hash: &str, found: &Found, ledger_records: u64, queues: &[QueueMatches]) {
    print(&format!("hash of the recipient: {hash}\n"));
    let line = |what: &str, count: u64, note: &str| {
        print(format!("  {what:<24}{count:>8}  {note}").trim_end());
    };
    for (what, count, note) in [
        ("records to the recipient", found.records.own.len(), "address and content are erased"),
        (
            "to linked recipients",
            found.records.linked.len(),
            "named by the same events; erased too",
        ),
        ("records that mention it", found.records.others.len(), "only the content is erased"),
        ("planned mails", found.planned.len(), ""),
        ("requests by HTTP", found.requests.len(), "the records of their mails stay"),
        ("changed bookings", found.bookings.len(), "the times are erased"),
        ("actions", found.records.actions(), "reasons that name it are removed"),
    ] {
        line(what, count as u64, note);
    }
    line("records in the ledger", ledger_records, "");
    for queue in queues {
        line(&format!("in {}", queue.queue), queue.messages.len() as u64, "");
    }
    print("");
}
