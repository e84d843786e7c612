//! `usher audit erase`: forgets a recipient. What is found is counted first; `--yes` forgets it.

use std::{collections::HashSet, process::ExitCode, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{AuditCli, print};
use crate::{
    api::outbox::MongoRequests,
    app::load::{self, Loaded},
    audit::{
        Record,
        store::{actions::Action, erase::Person},
    },
    broker::{
        Message,
        amqp::{DeadLetterQueue, Handle, Taken},
    },
    cli::args::EraseArgs,
    config::Endpoint,
    delivery::erased_recipient::RECENT,
    erasure::{Erasure, Found},
    failure::Failure,
    ledger::redis::RedisLedger,
    redaction::AddressMatcher,
    routing::{DeliveryId, Recipients},
    scheduler::mongo::MongoScheduler,
};

const DEAD_LETTER_QUEUES: [DeadLetterQueue; 3] =
    [DeadLetterQueue::Dead, DeadLetterQueue::Parked, DeadLetterQueue::Poison];

/// Messages about them in one queue.
struct InQueue {
    taken: Taken,
    queue: &'static str,
    found: Vec<(Message, Handle)>,
}

impl AuditCli {
    pub(super) async fn erase(
        &self,
        args: &EraseArgs,
        loaded: &Loaded,
    ) -> Result<ExitCode, Failure> {
        let matcher = AddressMatcher::new(&args.recipient);
        if !args.recipient.contains('@') {
            return Err(Failure::data(format!("{:?} is no address", args.recipient)));
        }
        let hash = self.identity.recipient_hash(&args.recipient);
        let fixed_routes = loaded.routing.routes().into_iter();
        let fixed_routes =
            fixed_routes.filter(|route| matches!(route.recipients, Recipients::Fixed(_)));
        let fixed_routes: HashSet<String> = fixed_routes.map(|route| route.name.clone()).collect();
        let database = self.audit.database();
        let erasure = Erasure {
            audit: &self.audit,
            scheduler: MongoScheduler::new(database),
            requests: MongoRequests::new(database, loaded.settings.audit_retention),
            person: Person { matcher: &matcher, hash: &hash, fixed_routes: &fixed_routes },
        };
        let ledger = load::open_ledger(&loaded.settings)?;
        let act = async |target: &str| {
            let (by, target) = (args.by.clone(), target.to_owned());
            let action =
                Action { by, action: "erase", target, reason: matcher.cut_from(&args.reason) };
            self.audit.act(&action).await.map_err(Failure::unavailable)
        };
        let at = Timestamp::now();
        if args.yes {
            // From here on nothing new comes up behind what is looked at.
            act(&hash).await?;
            let kept = SignedDuration::try_from(loaded.settings.audit_retention);
            let until = at.saturating_add(kept.unwrap_or(SignedDuration::MAX));
            let until = until.unwrap_or(Timestamp::MAX);
            self.audit.put_tombstone(&hash, at, until).await.map_err(Failure::unavailable)?;
        }
        let found = erasure.find().await.map_err(Failure::unavailable)?;
        let entries = self.ledger_entries(&ledger, &found, &erasure.person, at, args.yes).await?;
        // Last, for the broker does not let anybody hold messages for long.
        let mut shelves = Vec::new();
        for queue in DEAD_LETTER_QUEUES {
            shelves.push(
                self.look_at(&loaded.settings.rabbitmq, queue, &matcher)
                    .await
                    .map_err(Failure::unavailable)?,
            );
        }
        report(&hash, &found, entries, &shelves);
        for queue in shelves {
            if args.yes {
                for (message, handle) in queue.found {
                    if let Some(delivery_headers) = &message.delivery_headers {
                        act(delivery_headers.delivery_id.as_str()).await?;
                    }
                    handle.remove().await.map_err(Failure::unavailable)?;
                }
            }
            queue.taken.close().await;
        }
        if !args.yes {
            print("nothing was done; --yes does it");
            return Ok(ExitCode::SUCCESS);
        }
        erasure.erase(&found, at).await.map_err(Failure::unavailable)?;
        // What was so recent that nobody looked for the tombstone has its record by now, unless it is
        // with the mail server at this moment.
        let waited = Timestamp::now().duration_since(at);
        let rest = Duration::try_from(RECENT - waited).unwrap_or_default();
        tokio::time::sleep(rest).await;
        let late = erasure.find_late().await.map_err(Failure::unavailable)?;
        self.ledger_entries(&ledger, &late, &erasure.person, at, true).await?;
        erasure.erase(&late, at).await.map_err(Failure::unavailable)?;
        let late = match late.records.own.len() {
            0 => String::new(),
            count => format!(", and {count} that came meanwhile"),
        };
        print(&format!(
            "erased{late}; what is with the mail server right now may still leave a record: erase again to be sure"
        ));
        Ok(ExitCode::SUCCESS)
    }

    /// How many deliveries' records the ledger keeps; with `forget` they are changed.
    async fn ledger_entries(
        &self,
        ledger: &RedisLedger,
        found: &Found,
        person: &Person<'_>,
        at: Timestamp,
        forget: bool,
    ) -> Result<u64, Failure> {
        let mut entries = 0;
        for delivery in &found.records.deliveries {
            let Ok(delivery) = DeliveryId::from_stored(delivery) else { continue };
            let rewrite = |json: &str| {
                let mut record: Record = serde_json::from_str(json).ok()?;
                if record.erased_at.is_some() && record.recipient.is_empty() {
                    return None;
                }
                match record.recipient_hash == person.hash
                    || person.matcher.is_in(&record.recipient)
                {
                    true => record.erase(at),
                    false => record.forget(at),
                }
                serde_json::to_string(&record).ok()
            };
            entries += u64::from(if forget {
                ledger.rewrite_record(&delivery, rewrite).await.map_err(Failure::unavailable)?
            } else {
                let known = ledger.record(&delivery).await.map_err(Failure::unavailable)?;
                known.is_some_and(|json| rewrite(&json).is_some())
            });
        }
        Ok(entries)
    }

    async fn look_at(
        &self,
        server: &Endpoint,
        queue: DeadLetterQueue,
        matcher: &AddressMatcher,
    ) -> anyhow::Result<InQueue> {
        let taken = Taken::open(server, queue).await?;
        let mut found = Vec::new();
        while let Some((message, handle)) = taken.next(&self.identity).await? {
            let is_theirs = message.delivery_headers.as_ref().is_some_and(|delivery_headers| {
                matcher.is_in(&delivery_headers.recipient)
                    || matcher.is_in(&delivery_headers.reason)
            });
            if is_theirs || matcher.is_in_body(&message.body) {
                found.push((message, handle));
            }
        }
        Ok(InQueue { taken, queue: queue.queue(), found })
    }
}

fn report(hash: &str, found: &Found, entries: u64, shelves: &[InQueue]) {
    print(&format!("hash of the address: {hash}\n"));
    let line = |what: &str, count: usize, note: &str| {
        print(format!("  {what:<22}{count:>8}  {note}").trim_end());
    };
    line("records of theirs", found.records.own.len(), "address and words go, the fact stays");
    line(
        "records about them",
        found.records.others.len(),
        "the words go, the other's address stays",
    );
    line("planned mails", found.planned.len(), "");
    line("requests by HTTP", found.requests.len(), "the fact stays in the records");
    line("changed bookings", found.bookings.len(), "times go, that they were changed stays");
    line("actions", found.records.actions(), "the address goes out of the reasons");
    line("records in the ledger", usize::try_from(entries).unwrap_or(usize::MAX), "");
    for queue in shelves {
        line(&format!("in {}", queue.queue), queue.found.len(), "");
    }
    print("");
}
