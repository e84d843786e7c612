//! Events as upstream services publish them.

use serde_json::{Value, json};

pub(crate) const BOOKINGS: &str = "notification.booking_events";
pub(crate) const PAYMENTS: &str = "notification.payment_events";
pub(crate) const ACCOUNTS: &str = "notification.account_events";
pub(crate) const REQUESTS: &str = "notification.request_events";

/// The first documented event, byte for byte: no event id.
pub(crate) const SEED_BOOKING: &str =
    include_str!("../../templates/booking_confirmation/samples/seed.json");
/// The second documented event.
pub(crate) const SEED_PAYMENT: &str =
    include_str!("../../templates/payment_success/samples/seed.json");

/// A complete `booking.confirmed` with its own id.
pub(crate) fn booking(event_id: &str, recipient: &str) -> Value {
    json!({
        "event_id": event_id,
        "event_type": "booking.confirmed",
        "user_email": recipient,
        "booking_id": "BOOK-1",
        "movie_title": "Solaris",
        "showtime": "2026-12-15T19:30:00-05:00",
        "seats": ["A1", "A2"],
        "total_amount": "25.50",
        "currency": "USD",
    })
}

/// A complete `booking.rescheduled`, which goes to the customer and to each admin.
pub(crate) fn rescheduled(event_id: &str, recipient: &str) -> Value {
    json!({
        "event_id": event_id,
        "event_type": "booking.rescheduled",
        "user_email": recipient,
        "booking_id": "BOOK-2",
        "customer_name": "Grace O'Kafor",
        "previous_date": "2026-12-15T19:30:00-05:00",
        "new_date": "2026-12-20T20:00:00-05:00",
        "services": ["3 tickets"],
        "total_amount": "45",
        "currency": "USD",
    })
}

/// The same event with some fields changed; `null` takes a field out.
pub(crate) fn with(mut event: Value, changes: &Value) -> Value {
    let fields = event.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    event
}
