//! Any body of an HTTP request: it is refused, or it becomes an event whose mails can be composed.

#![no_main]

use std::sync::LazyLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use usher::{
    event,
    api::fields_of,
    api::outbox::{Kind, Request, State},
};
use usher_fuzz::{LINE, assert_mail_is_whole};

fuzz_target!(init: {
    // The first run is slow, and no input may be.
    LazyLock::force(&LINE);
}, |body: &[u8]| {
    for kind in Kind::ALL {
        let Some(fields) = fields_of(kind, body) else { continue };
        let request = Request {
            id: "5b0e7c4a-9d21-4c36-8f10-000000000001".to_owned(),
            kind,
            number: 1,
            body: fields,
            state: State::Pending,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            claim_at: Timestamp::UNIX_EPOCH,
            purge_at: None,
            traceparent: None,
        };
        let message = request.message("fuzz");
        let event = event::parse(&message.body, &message.properties, "fuzz").expect("an event");
        assert_eq!((event.id.value.as_str(), event.kind.as_str()), (request.id.as_str(), kind.event_type()));
        let deliveries = LINE.deliveries(&event);
        assert_eq!(deliveries.len(), 1);
        for delivery in &deliveries {
            let rendered = LINE.render(delivery, &event).expect("all that it takes is there");
            let recipient = delivery.recipient.address().expect("an address");
            let reply_to = event.text("email").map(ToOwned::to_owned);
            let mail = LINE.compose(recipient, rendered, reply_to).expect("an address that travels");
            assert_mail_is_whole(mail.text.as_bytes());
        }
    }
});
