//! Measures an event's stages that need no service: parse, route, variables, render, compose.
//!
//! `cargo bench --bench stages` measures the time of each stage, `benches/instructions` counts its
//! instructions. For the whole line against real services see docs/performance.md.

use std::{collections::HashMap, hint::black_box, io::Write};

use criterion::Criterion;
use usher::{
    channel::{Extras, Outgoing, email::Sender},
    config::{self, Environment},
    event::{self, Event, Properties, Sources},
    routing::{Delivery, EMBEDDED_ROUTES, Identity, Lookup, RoutingTable},
    template::{Globals, Templates, source},
};

const EVENT: &[u8] = br#"{"event_id": "7d0f7b6e-50b2-5e0c-9a39-0f6e0f3f2c11", "event_type": "booking.confirmed",
    "user_email": "guest0@example.test", "booking_id": "BOOK-000000", "movie_title": "Symphony No. 9 <live>",
    "showtime": "2027-12-15 7:30 PM", "room": "Room 1", "seats": ["A5", "A6", "A7", "A8"],
    "total_amount": 51.25, "currency": "USD"}"#;

/// Name and body of a stage.
type Stage<'a> = (String, Box<dyn Fn() + 'a>);

/// Everything that does not depend on the event.
struct Line {
    routing: RoutingTable,
    templates: Templates,
    files: source::Files,
    sources: Sources,
    identity: Identity,
    sender: Sender,
}

impl Line {
    fn new() -> Self {
        let environment: Environment = [("SIMULATE", "always")].into_iter().collect();
        let (settings, _) = config::load(None, &environment).expect("the defaults are valid");
        let address = || vec!["admin@example.test".to_owned()];
        let lists = HashMap::from([
            ("ADMIN_EMAILS".to_owned(), address()),
            ("CONTACT_EMAILS".to_owned(), address()),
        ]);
        let routing =
            RoutingTable::parse(EMBEDDED_ROUTES, &lists).expect("the embedded routes are valid");
        let files = source::read(None).expect("the embedded templates are readable");
        let templates = Templates::compile(&files, &routing, Globals::new(&settings))
            .expect("templates compile");
        Self {
            routing,
            templates,
            files,
            sources: Sources::new(&settings).expect("no file is named"),
            identity: Identity::new("bench"),
            sender: Sender::new("Cinema", "noreply@example.test", None).expect("a valid address"),
        }
    }

    fn deliveries(&self, event: &Event) -> Vec<Delivery> {
        let Lookup::Routes(routes) = self.routing.lookup(&event.kind) else { panic!("no route") };
        self.routing.deliveries(routes, event, &self.identity)
    }

    /// The stages, for one event.
    fn stages(&self, body: &'static [u8]) -> Vec<Stage<'_>> {
        let parse = || event::parse(body, &Properties::default(), "bench").expect("a valid event");
        let variables = |event: &Event, delivery: &Delivery| {
            delivery.route.variables(event, &self.sources, "en").expect("complete")
        };
        let event = parse();
        let delivery = self.deliveries(&event).remove(0);
        let bound = variables(&event, &delivery);
        let render = move |event: &Event, delivery: &Delivery, bound: &_| {
            self.templates.render(&delivery.route, bound, event).expect("renders")
        };
        let outgoing = Outgoing {
            recipient: "guest0@example.test".to_owned(),
            message_id: "<bench@example.test>".to_owned(),
            date: None,
            rendered: render(&event, &delivery, &bound),
            extras: Extras::default(),
        };
        let (event2, delivery2) = (event.clone(), delivery.clone());
        let routed = event.clone();
        vec![
            ("parse".to_owned(), Box::new(move || drop(black_box(parse())))),
            ("route".to_owned(), Box::new(move || drop(black_box(self.deliveries(&routed))))),
            (
                "variables".to_owned(),
                Box::new(move || drop(black_box(variables(&event, &delivery)))),
            ),
            (
                "render".to_owned(),
                Box::new(move || drop(black_box(render(&event2, &delivery2, &bound)))),
            ),
            (
                "compose".to_owned(),
                Box::new(move || drop(black_box(self.sender.compose(&outgoing).expect("a mail")))),
            ),
        ]
    }

    /// Renders every template with its first sample.
    fn renders(&self) -> impl Iterator<Item = Stage<'_>> {
        self.routing.routes().into_iter().filter_map(move |route| {
            let sample = |text| usher::template::sample(text).ok();
            let mut event = source::samples(&self.files, &route.template)
                .filter_map(|(_, text)| sample(text))
                .find(|event| event.kind == route.event)?;
            self.routing.normalize(&mut event);
            let variables = route.variables(&event, &self.sources, "en").expect("complete");
            let render = move || drop(self.templates.render(route, &variables, &event));
            Some((format!("render {}", route.name), Box::new(render) as Box<dyn Fn()>))
        })
    }
}

fn main() {
    let line = Line::new();
    let work: Vec<_> = line.stages(EVENT).into_iter().chain(line.renders()).collect();
    let mut arguments = std::env::args().skip_while(|argument| argument != "--loop").skip(1);
    if let (Some(name), Some(times)) = (arguments.next(), arguments.next()) {
        let (_, work) = work.iter().find(|(known, _)| *known == name).expect("a stage");
        (0..times.parse().expect("a number")).for_each(|_: u32| work());
        return;
    }
    if std::env::args().any(|argument| argument == "--names") {
        let names: Vec<_> = work.iter().map(|(name, _)| name.as_str()).collect();
        std::io::stdout().write_all((names.join("\n") + "\n").as_bytes()).expect("a terminal");
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    for (name, work) in &work {
        criterion.bench_function(name, |bench| bench.iter(work));
    }
    criterion.final_summary();
}
