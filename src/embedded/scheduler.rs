//! The plan in the embedded mode's file.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;

use super::Database;
use crate::{
    routing::DeliveryId,
    scheduler::{
        Added, BATCH, Backlog, Booking, KEPT, OVERDUE, Planned, Scheduler, SchedulerError, State,
        after, failed, lease_from,
    },
};

/// The plan in a SQLite file.
pub struct EmbeddedScheduler {
    database: Database,
}

impl EmbeddedScheduler {
    /// In this file.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, SchedulerError> {
        let in_transaction = move |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        self.database.call(in_transaction).await.map_err(failed)
    }
}

#[async_trait]
impl Scheduler for EmbeddedScheduler {
    async fn add(&self, planned: Planned) -> Result<Added, SchedulerError> {
        self.call(move |connection| {
            let known = get(connection, &planned.delivery_id)?;
            if let Some(added) = known.and_then(|known| planned.meets(&known)) {
                return Ok(added);
            }
            put(connection, &planned)?;
            Ok(Added::New)
        })
        .await
    }

    async fn claim_due(&self, now: Timestamp) -> Result<Vec<Planned>, SchedulerError> {
        self.call(move |connection| {
            let due: Vec<Planned> = all(
                connection,
                "SELECT planned FROM planned WHERE state IN ('planned', 'claimed') AND claim_at_ms <= ?1
                 ORDER BY claim_at_ms LIMIT ?2",
                params![now.as_millisecond(), BATCH as i64],
            )?;
            for planned in &due {
                let (state, claim_at) = (State::Claimed, lease_from(now));
                put(connection, &Planned { state, claim_at, ..planned.clone() })?;
            }
            Ok(due)
        })
        .await
    }

    async fn published(&self, deliveries: &[DeliveryId]) -> Result<(), SchedulerError> {
        let deliveries = deliveries.to_vec();
        self.call(move |connection| {
            for delivery in &deliveries {
                end(connection, delivery, State::Claimed, State::Published, None)?;
            }
            Ok(())
        })
        .await
    }

    async fn void(&self, delivery: &DeliveryId, reason: &str) -> Result<bool, SchedulerError> {
        let (delivery, reason) = (delivery.clone(), reason.to_owned());
        self.call(move |connection| {
            end(connection, &delivery, State::Planned, State::Void, Some(reason))
        })
        .await
    }

    async fn of_booking(&self, booking: &str) -> Result<Vec<Planned>, SchedulerError> {
        let booking = booking.to_owned();
        self.call(move |connection| {
            all(
                connection,
                "SELECT planned FROM planned WHERE booking_id = ?1
                 ORDER BY json_extract(planned, '$.planned_at') DESC, rowid DESC",
                [booking],
            )
        })
        .await
    }

    async fn backlog(&self, now: Timestamp) -> Result<Backlog, SchedulerError> {
        let until = after(now, SignedDuration::from_hours(24));
        self.call(move |connection| {
            let mut backlog = Backlog::default();
            let mut query = connection.prepare(
                "SELECT due_ms FROM planned
                     WHERE state IN ('planned', 'claimed') AND due_ms < ?1",
            )?;
            let mut rows = query.query([until.as_millisecond()])?;
            while let Some(row) = rows.next()? {
                let ahead = row.get::<_, i64>(0)? - now.as_millisecond();
                match usize::try_from(ahead.div_euclid(3_600_000)) {
                    Ok(hour) if hour < backlog.hours.len() => backlog.hours[hour] += 1,
                    _ => backlog.overdue += u64::from(-ahead > OVERDUE.as_millis() as i64),
                }
            }
            Ok(backlog)
        })
        .await
    }

    async fn booking(&self, booking: &str) -> Result<Option<Booking>, SchedulerError> {
        let id = booking.to_owned();
        self.call(move |connection| find_booking(connection, &id)).await
    }

    async fn change(&self, booking: Booking) -> Result<Booking, SchedulerError> {
        self.call(move |connection| {
            if let Some(known) = find_booking(connection, &booking.id)?
                && !known.yields_to(&booking)
            {
                return Ok(known);
            }
            connection.execute(
                "INSERT OR REPLACE INTO bookings (booking_id, purge_ms, booking) VALUES (?1, ?2, ?3)",
                params![
                    booking.id,
                    booking.purge_at.as_millisecond(),
                    serde_json::to_string(&booking)?
                ],
            )?;
            Ok(booking)
        })
        .await
    }
}

fn get(connection: &Connection, delivery: &DeliveryId) -> anyhow::Result<Option<Planned>> {
    let query = "SELECT planned FROM planned WHERE delivery_id = ?1";
    Ok(all(connection, query, [delivery.as_str()])?.pop())
}

fn put(connection: &Connection, planned: &Planned) -> anyhow::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO planned
         (delivery_id, booking_id, state, due_ms, claim_at_ms, purge_ms, planned)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            planned.delivery_id.as_str(),
            planned.booking_id,
            planned.state.as_str(),
            planned.due.as_millisecond(),
            planned.claim_at.as_millisecond(),
            planned.purge_at.map(Timestamp::as_millisecond),
            serde_json::to_string(planned)?
        ],
    )?;
    Ok(())
}

/// Ends one that is in the state `from`; whether it was.
fn end(
    connection: &Connection,
    delivery: &DeliveryId,
    from: State,
    state: State,
    reason: Option<String>,
) -> anyhow::Result<bool> {
    let known = get(connection, delivery)?.filter(|known| known.state == from);
    let Some(known) = known else { return Ok(false) };
    let purge_at = Some(after(Timestamp::now(), KEPT));
    put(connection, &Planned { state, reason, purge_at, ..known })?;
    Ok(true)
}

fn find_booking(connection: &Connection, id: &str) -> anyhow::Result<Option<Booking>> {
    let query = "SELECT booking FROM bookings WHERE booking_id = ?1";
    let found: Option<String> = connection.query_row(query, [id], |row| row.get(0)).optional()?;
    Ok(found.as_deref().map(serde_json::from_str).transpose()?)
}

fn all<T: DeserializeOwned>(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> anyhow::Result<Vec<T>> {
    let mut query = connection.prepare_cached(query)?;
    let rows = query.query_map(parameters, |row| row.get::<_, String>(0))?;
    rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        broker::DeliveryHeaders,
        event::Properties,
        routing::{Lifecycle, Priority},
        scheduler::{LEASE, Version},
    };

    fn scheduler() -> (tempfile::TempDir, EmbeddedScheduler) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("usher.db")).unwrap();
        (folder, EmbeddedScheduler::new(database))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn planned(number: u32, event_id: &str, due: Timestamp) -> Planned {
        let delivery_id = DeliveryId::from_stored(&format!("{number:032x}")).unwrap();
        let delivery_headers = DeliveryHeaders {
            delivery_id: delivery_id.clone(),
            event_id: event_id.into(),
            route: "r".into(),
            channel: "email".into(),
            recipient: "u@example.com".into(),
            attempt: 1,
            origin: "q".into(),
            reason: "planned".into(),
            masked: false,
            arrived_at: None,
        };
        Planned {
            delivery_id,
            due,
            claim_at: due,
            state: State::Planned,
            reason: None,
            booking_id: Some("B".into()),
            event_type: "x".into(),
            priority: Priority::High,
            version: Version { sequence: None, occurred_at: None, arrived_at: due },
            planned_at: due,
            purge_at: None,
            delivery_headers,
            properties: Properties::default(),
            body: "{}".into(),
        }
    }

    #[tokio::test]
    async fn what_is_due_in_a_year_is_claimed_then_and_no_jump_of_the_clock_claims_it_twice() {
        let (_folder, scheduler) = scheduler();
        let due = at("2025-03-30T01:30:00Z");
        scheduler.add(planned(1, "e", due)).await.unwrap();
        for early in ["2024-03-30T01:30:00Z", "2025-03-30T01:29:59.999Z"] {
            assert_eq!(scheduler.claim_due(at(early)).await.unwrap(), []);
        }
        assert_eq!(scheduler.claim_due(due).await.unwrap().len(), 1);
        // The clock is put back, and forward within the lease.
        for now in [at("2025-03-29T00:00:00Z"), due, after(due, SignedDuration::from_secs(29))] {
            assert_eq!(scheduler.claim_due(now).await.unwrap(), []);
        }
        // Whoever claimed it is gone; then the clock jumps far ahead.
        let lease = SignedDuration::try_from(LEASE).unwrap();
        assert_eq!(scheduler.claim_due(after(due, lease)).await.unwrap().len(), 1);
        scheduler.published(&[planned(1, "e", due).delivery_id]).await.unwrap();
        assert_eq!(scheduler.claim_due(Timestamp::MAX).await.unwrap(), []);
    }

    #[tokio::test]
    async fn ten_thousand_of_one_second_are_claimed_once_each_by_three() {
        const COUNT: usize = 10_000;
        let (_folder, scheduler) = scheduler();
        let now = at("2024-12-15T19:30:00Z");
        scheduler
            .call(move |connection| {
                (0..COUNT as u32).try_for_each(|number| put(connection, &planned(number, "e", now)))
            })
            .await
            .unwrap();
        let claim = async || {
            let mut mine = Vec::new();
            loop {
                let claimed = scheduler.claim_due(now).await.unwrap();
                assert!(claimed.len() <= BATCH);
                if claimed.is_empty() {
                    return mine;
                }
                let ids: Vec<_> = claimed.into_iter().map(|one| one.delivery_id).collect();
                scheduler.published(&ids).await.unwrap();
                mine.extend(ids);
            }
        };
        let (one, two, three) = tokio::join!(claim(), claim(), claim());
        let all: Vec<_> = [one, two, three].concat();
        assert_eq!(all.len(), COUNT);
        assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), COUNT);
    }

    #[tokio::test]
    async fn planning_again_changes_nothing_unless_it_was_void() {
        let (_folder, scheduler) = scheduler();
        let due = Timestamp::now();
        let (mine, others) = (planned(1, "e", due), planned(1, "other", due));
        assert_eq!(scheduler.add(mine.clone()).await.unwrap(), Added::New);
        assert_eq!(scheduler.add(mine.clone()).await.unwrap(), Added::Known);
        assert_eq!(scheduler.add(others.clone()).await.unwrap(), Added::Duplicate("e".into()));
        assert!(scheduler.void(&mine.delivery_id, "because").await.unwrap());
        assert!(!scheduler.void(&mine.delivery_id, "again").await.unwrap());
        assert_eq!(scheduler.claim_due(due).await.unwrap(), []);
        assert_eq!(scheduler.of_booking("B").await.unwrap()[0].reason.as_deref(), Some("because"));
        assert_eq!(scheduler.add(mine.clone()).await.unwrap(), Added::Known);
        assert_eq!(scheduler.add(others).await.unwrap(), Added::New);
        assert_eq!(scheduler.claim_due(due).await.unwrap().len(), 1);
        assert!(!scheduler.void(&mine.delivery_id, "too late").await.unwrap());
    }

    #[tokio::test]
    async fn the_outlook_counts_by_the_hour_and_what_is_overdue() {
        let (_folder, scheduler) = scheduler();
        let now = at("2024-12-15T19:30:00Z");
        let due = [-301, -299, 0, 3599, 3600, 24 * 3600 - 1, 24 * 3600];
        for (number, seconds) in (0..).zip(due) {
            let due = after(now, SignedDuration::from_secs(seconds));
            scheduler.add(planned(number, "e", due)).await.unwrap();
        }
        let backlog = scheduler.backlog(now).await.unwrap();
        let mut hours = [0; 24];
        (hours[0], hours[1], hours[23]) = (2, 1, 1);
        assert_eq!(backlog, Backlog { hours, overdue: 1 });
    }

    #[tokio::test]
    async fn the_latest_change_of_a_booking_counts() {
        let (_folder, scheduler) = scheduler();
        let change = |event_id: &str, sequence, state| Booking {
            id: "B".into(),
            state,
            event_id: event_id.into(),
            event_type: "x".into(),
            version: Version {
                sequence: Some(sequence),
                occurred_at: None,
                arrived_at: Timestamp::now(),
            },
            showtime: None,
            timezone: None,
            purge_at: Timestamp::MAX,
        };
        assert_eq!(scheduler.booking("B").await.unwrap(), None);
        let cancelled = change("c", 3, Lifecycle::Cancelled);
        assert_eq!(scheduler.change(cancelled.clone()).await.unwrap(), cancelled);
        let late = change("r", 2, Lifecycle::Rescheduled);
        assert_eq!(scheduler.change(late).await.unwrap(), cancelled);
        let again = change("c", 3, Lifecycle::Cancelled);
        assert_eq!(scheduler.change(again).await.unwrap(), cancelled);
        assert_eq!(scheduler.booking("B").await.unwrap(), Some(cancelled));
    }
}
