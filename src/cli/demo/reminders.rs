//! Two bookings and their reminders: one booking is moved and its reminder is sent, the other is cancelled.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{PublishedEvent, process, publish};
use crate::{
    app::pipeline,
    broker::Handler,
    cli::output::print,
    delivery::Pipeline,
    embedded::{broker::EmbeddedBroker, scheduler::EmbeddedScheduler},
    failure::Failure,
    scheduler::{Scheduler, State},
};

/// `REMINDER_BEFORE` as the demo's settings have it.
const BEFORE_SHOWTIME: SignedDuration = SignedDuration::from_hours(3);

/// Returns the events, and whether the reminders ended as they should.
pub(super) async fn run(
    broker: &EmbeddedBroker,
    pipeline: &Arc<Pipeline>,
    scheduler: &EmbeddedScheduler,
) -> Result<(Vec<PublishedEvent>, bool), Failure> {
    let handler = pipeline::handler(pipeline.clone());
    let mut published = Vec::new();
    for (title, event) in events() {
        published.push(publish(broker, title, &event.to_string()).await?);
        process(broker, handler.clone(), 1).await?;
    }
    send_due_reminder(broker, handler, pipeline, scheduler).await?;
    let mut states = Vec::new();
    for booking in ["DEMO-1", "DEMO-2"] {
        let mut reminders = scheduler.for_booking(booking).await?;
        reminders.reverse();
        for reminder in reminders {
            let due = reminder.due.strftime("%H:%M:%SZ");
            let state = reminder.state.as_str();
            let reason = reminder.reason.map(|reason| format!(", {reason}")).unwrap_or_default();
            print(&format!("reminder of {booking} planned for {due}: {state}{reason}"));
            states.push(reminder.state);
        }
    }
    print("");
    Ok((published, states == [State::Cancelled, State::Published, State::Cancelled]))
}

async fn send_due_reminder(
    broker: &EmbeddedBroker,
    handler: Handler,
    pipeline: &Pipeline,
    scheduler: &EmbeddedScheduler,
) -> Result<(), Failure> {
    let is_planned = async || {
        let reminders = scheduler.for_booking("DEMO-1").await?;
        anyhow::Ok(reminders.iter().any(|reminder| reminder.state == State::Planned))
    };
    while is_planned().await? {
        if pipeline.publish_due().await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    process(broker, handler, 1).await
}

fn events() -> [(&'static str, Value); 4] {
    // The reminder is due in an hour, and after the move in a second.
    let later = (Timestamp::now() + BEFORE_SHOWTIME + SignedDuration::from_hours(1)).to_string();
    let sooner = (Timestamp::now() + BEFORE_SHOWTIME + SignedDuration::from_secs(1)).to_string();
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
