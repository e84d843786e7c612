//! Any text in place of a sample's values: the mail renders, the text stays text in its HTML, and
//! adds no header.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use usher::{
    routing::ChannelKind,
    event::Event,
    template::{sample, source},
};
use usher_fuzz::{LINE, assert_mail_is_whole};

/// Precedes each hostile value; usher itself never writes it.
const MARK: &str = "<zq9>";

/// Replaces the sample's texts, except the event's type and recipient.
fn poison(value: &mut Value, hostile: &str, which: &mut u64) {
    match value {
        Value::String(text) => {
            // One in four keeps its value, so that later checks are reached too.
            if *which & 3 != 0 {
                *text = format!("{MARK}{hostile}");
            }
            *which = which.rotate_right(2);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, hostile, which)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| poison(value, hostile, which));
        }
        _ => {}
    }
}

fuzz_target!(init: {
    // The first run is slow, and no input may be.
    LazyLock::force(&LINE);
}, |input: (u8, u64, &str)| {
    let (route, mut which, hostile) = input;
    let routes = LINE.routing.routes();
    let route = &routes[usize::from(route) % routes.len()];
    let samples = source::samples(&LINE.files, &route.template);
    let mut samples = samples.filter_map(|(_, text)| sample(text).ok());
    let Some(mut event): Option<Event> = samples.find(|it| it.kind == route.event) else { return };
    for (name, value) in &mut event.fields {
        if !matches!(name.as_str(), "event_type" | "template" | "user_email" | "email" | "to") {
            poison(value, hostile, &mut which);
        }
    }
    LINE.routing.normalize(&mut event);
    for delivery in LINE.deliveries(&event) {
        let Some(rendered) = LINE.render(&delivery, &event) else { continue };
        if delivery.route.channel != ChannelKind::Email {
            continue;
        }
        assert!(!rendered.html.contains(MARK), "{}", rendered.html);
        assert!(!rendered.subject.contains(['\r', '\n']), "{:?}", rendered.subject);
        let composed = LINE.compose("user@example.com", rendered, Some(hostile.to_owned()));
        assert_mail_is_whole(composed.expect("a recipient as good as any").text.as_bytes());
    }
});
