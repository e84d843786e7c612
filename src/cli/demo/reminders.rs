//! Two bookings and their reminders: one is moved and goes out, the other is cancelled.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Fed, drain};
use crate::{
    app::build,
    broker::Handler,
    cli::print,
    delivery::Pipeline,
    embedded::{broker::EmbeddedBroker, scheduler::EmbeddedScheduler},
    failure::Failure,
    scheduler::{Scheduler, State},
};

/// What the settings of the demo say: so long before the show.
const BEFORE: SignedDuration = SignedDuration::from_hours(3);

/// Plays it; gives the events, and whether everything went as it should.
pub(crate) async fn play(
    broker: &EmbeddedBroker,
    pipeline: &Arc<Pipeline>,
    scheduler: &EmbeddedScheduler,
) -> Result<(Vec<Fed>, bool), Failure> {
    let handler = build::handler(pipeline.clone());
    let mut fed = Vec::new();
    for (title, event) in events() {
        broker.publish_event(event.to_string().into_bytes()).await?;
        fed.push(Fed { title: title.to_owned(), event_id: text(&event, "event_id") });
        // One after the other, so that they arrive in their order.
        drain(broker, handler.clone(), 1).await?;
    }
    send_what_is_due(broker, handler, pipeline, scheduler).await?;
    let mut states = Vec::new();
    for booking in ["DEMO-1", "DEMO-2"] {
        let mut planned = scheduler.of_booking(booking).await?;
        planned.reverse();
        for one in planned {
            let due = one.due.strftime("%H:%M:%SZ");
            let why = one.reason.map(|reason| format!(", {reason}")).unwrap_or_default();
            print(&format!("reminder of {booking} planned for {due}: {}{why}", one.state.as_str()));
            states.push(one.state);
        }
    }
    print("");
    Ok((fed, states == [State::Void, State::Published, State::Void]))
}

/// Waits for the reminder that was moved to the next moment.
async fn send_what_is_due(
    broker: &EmbeddedBroker,
    handler: Handler,
    pipeline: &Pipeline,
    scheduler: &EmbeddedScheduler,
) -> Result<(), Failure> {
    let waits = async || {
        let planned = scheduler.of_booking("DEMO-1").await?;
        anyhow::Ok(planned.iter().any(|one| one.state == State::Planned))
    };
    while waits().await? {
        if pipeline.publish_due().await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    drain(broker, handler, 1).await
}

fn events() -> [(&'static str, Value); 4] {
    // The reminder is due an hour from now, and after the move in a second.
    let later = (Timestamp::now() + BEFORE + SignedDuration::from_hours(1)).to_string();
    let sooner = (Timestamp::now() + BEFORE + SignedDuration::from_secs(1)).to_string();
    let booking = |event_id: &str, kind: &str, booking: &str| {
        json!({
            "event_id": event_id, "event_type": kind, "booking_id": booking,
            "user_email": "reminded@example.com", "movie_title": "Solaris", "showtime": later,
            "seats": ["A1", "A2"], "total_amount": "25.50", "currency": "USD",
        })
    };
    let mut moved = booking("demo-moved", "booking.rescheduled", "DEMO-1");
    for (name, value) in [
        ("customer_name", json!("Grace Okafor")),
        ("previous_date", json!(later)),
        ("new_date", json!(sooner)),
        ("services", json!(["Solaris"])),
    ] {
        moved[name] = value;
    }
    [
        ("a booking plans its reminder", booking("demo-first", "booking.confirmed", "DEMO-1")),
        ("... and is moved", moved),
        ("another booking", booking("demo-second", "booking.confirmed", "DEMO-2")),
        ("... and is cancelled", booking("demo-cancelled", "booking.cancelled", "DEMO-2")),
    ]
}

fn text(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap_or_default().to_owned()
}
