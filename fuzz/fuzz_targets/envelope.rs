//! Any body: it is an event or not, with the same result twice, and its deliveries can be determined.

#![no_main]

use std::{collections::HashSet, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use usher::event::{self, Properties};
use usher_fuzz::LINE;

fuzz_target!(init: {
    // The first run is slow, and no input may be.
    LazyLock::force(&LINE);
}, |body: &[u8]| {
    let properties = Properties::default();
    let Ok(mut event) = event::parse(body, &properties, "fuzz") else { return };
    let again = event::parse(body, &properties, "fuzz").expect("it was an event before");
    assert_eq!(event.id, again.id);
    assert!((1..=255).contains(&event.id.value.len()), "{:?}", event.id);
    assert!(!event.kind.chars().any(char::is_control), "{:?}", event.kind);
    LINE.routing.normalize(&mut event);
    let deliveries = LINE.deliveries(&event);
    let ids: HashSet<_> = deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
    assert_eq!(ids.len(), deliveries.len());
    for delivery in &deliveries {
        if let Some(rendered) = LINE.render(delivery, &event) {
            assert!(!rendered.subject.contains(['\r', '\n']), "{:?}", rendered.subject);
        }
    }
});
