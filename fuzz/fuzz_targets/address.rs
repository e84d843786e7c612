//! Any text as an address: it is refused, or it is the mail's only recipient and adds no header.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use usher::{channel::email::check_recipient, template::sample, template::source};
use usher_fuzz::{LINE, assert_mail_is_whole};

fuzz_target!(init: {
    // The first run is slow, and no input may be.
    LazyLock::force(&LINE);
}, |address: &str| {
    let accepted = check_recipient(address).is_ok();
    let (_, text) = source::samples(&LINE.files, "payment_success").next().expect("a sample");
    let event = sample(text).expect("an event");
    let delivery = LINE.deliveries(&event).remove(0);
    let rendered = LINE.render(&delivery, &event).expect("it renders");
    let composed = LINE.compose(address, rendered, Some(address.to_owned()));
    assert_eq!(composed.is_some(), accepted, "{address:?}");
    let Some(composed) = composed else { return };
    assert_eq!(composed.envelope.to().len(), 1);
    let recipient = composed.envelope.to()[0].to_string();
    assert!(!recipient.chars().any(|c| c.is_control() || matches!(c, '<' | '>')), "{recipient:?}");
    assert!(recipient.len() <= 254);
    assert_mail_is_whole(composed.text.as_bytes());
});
