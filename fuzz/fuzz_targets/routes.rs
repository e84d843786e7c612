//! Any routes file: it is refused with reasons, or each of its routes is found by its events.

#![no_main]

use std::{collections::HashMap, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use usher::routing::{RoutingTable, Lookup};

static SETTINGS: LazyLock<HashMap<String, Vec<String>>> =
    LazyLock::new(usher_fuzz::settings_of_routes);

fuzz_target!(|text: &str| {
    match RoutingTable::parse(text, &SETTINGS) {
        Err(faults) => assert!(!faults.0.is_empty() && !faults.to_string().is_empty()),
        Ok(routing) => {
            for route in routing.routes() {
                let Lookup::Routes(routes) = routing.lookup(&route.event) else {
                    panic!("{} is not found by {}", route.name, route.event);
                };
                assert!(routes.iter().any(|found| found.name == route.name));
                let queue = routing.queue_of(&route.event).expect("its queue");
                assert!(routing.queues().iter().any(|known| known.name == queue));
            }
        }
    }
});
