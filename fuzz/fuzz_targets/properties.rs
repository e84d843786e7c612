//! Any properties and headers of a message: usher reads them, its copy has the same ones, and the body becomes
//! the same event or none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usher::{broker::amqp::fuzzing, event};

fuzz_target!(|bytes: &[u8]| {
    let properties = fuzzing::read(bytes);
    let body = br#"{"event_type": "booking.confirmed", "user_email": "a@example.com"}"#;
    let ids = || event::parse(body, &properties, "fuzz").map(|event| event.id.value).ok();
    assert_eq!(ids(), ids());
});
