//! The scheduler of the embedded mode.

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

pub struct EmbeddedScheduler {
    database: Database,
}

impl EmbeddedScheduler {
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
            if let Some(added) = known.and_then(|known| planned.outcome_beside(&known)) {
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
                finish(connection, delivery, State::Claimed, State::Published, None)?;
            }
            Ok(())
        })
        .await
    }

    async fn cancel(&self, delivery: &DeliveryId, reason: &str) -> Result<bool, SchedulerError> {
        let (delivery, reason) = (delivery.clone(), reason.to_owned());
        self.call(move |connection| {
            finish(connection, &delivery, State::Planned, State::Cancelled, Some(reason))
        })
        .await
    }

    async fn for_booking(&self, booking: &str) -> Result<Vec<Planned>, SchedulerError> {
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
                && !known.is_replaced_by(&booking)
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

/// Ends an entry if it is in the state `from`. Returns whether it was.
fn finish(
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
