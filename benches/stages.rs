//! What an event costs before any service is asked: parse, route, render, compose.
//!
//! `cargo bench` prints the median time of each stage. For the whole line against real services see
//! docs/performance.md.

use std::{collections::HashMap, hint::black_box, time::Instant};

use usher::{
    catalog::{Catalog, EMBEDDED_ROUTES, Identity, Lookup},
    channel::{Extras, Outgoing, email::Sender},
    config::{self, Environment},
    event::{self, Properties, Sources},
    template::{Globals, Templates, source},
};

const EVENT: &[u8] = br#"{"event_id": "7d0f7b6e-50b2-5e0c-9a39-0f6e0f3f2c11", "event_type": "booking.confirmed",
    "user_email": "guest0@example.test", "booking_id": "BOOK-000000", "movie_title": "Symphony No. 9 <live>",
    "showtime": "2027-12-15 7:30 PM", "room": "Room 1", "seats": ["A5", "A6", "A7", "A8"],
    "total_amount": 51.25, "currency": "USD"}"#;

#[allow(clippy::print_stdout, reason = "its only output")]
fn main() {
    let environment: Environment = [("SIMULATE", "always")].into_iter().collect();
    let (settings, _) = config::load(None, &environment).expect("the defaults are valid");
    let lists = HashMap::from([("ADMIN_EMAILS".to_owned(), Vec::new())]);
    let catalog = Catalog::parse(EMBEDDED_ROUTES, &lists).expect("the embedded routes are valid");
    let files = source::read(None).expect("the embedded templates are readable");
    let templates = Templates::compile(&files, Globals::new(&settings)).expect("templates compile");
    let sources = Sources::new(&settings).expect("no file is named");
    let identity = Identity::new("bench");
    let sender = Sender::new("Cinema", "noreply@example.test", None).expect("a valid address");

    let parse = || event::parse(EVENT, &Properties::default(), "bench").expect("a valid event");
    let event = parse();
    let Lookup::Routes(routes) = catalog.lookup(&event.kind) else { panic!("no route") };
    let delivery = &catalog.deliveries(routes, &event, &identity)[0];
    let variables = delivery.route.variables(&event, &sources, "en").expect("complete");
    let render = || templates.render(&delivery.route, &variables, &event).expect("renders");
    let outgoing = Outgoing {
        recipient: "guest0@example.test".to_owned(),
        message_id: "<bench@example.test>".to_owned(),
        rendered: render(),
        extras: Extras::default(),
    };

    measure("parse", parse);
    measure("route", || catalog.deliveries(routes, &event, &identity));
    measure("variables", || delivery.route.variables(&event, &sources, "en"));
    measure("render", render);
    measure("compose", || sender.compose(&outgoing));
}

/// The median of many batches, which a busy machine moves least.
#[allow(clippy::print_stdout, reason = "its only output")]
fn measure<T>(stage: &str, mut work: impl FnMut() -> T) {
    const BATCHES: usize = 50;
    const RUNS: u32 = 200;
    let mut times: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..RUNS {
                black_box(work());
            }
            began.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{stage:10} {:8.1} µs", times[BATCHES / 2]);
}
