//! The parts of the line that need no service, for the targets.

use std::{collections::HashMap, sync::LazyLock};

use usher::{channel::{Extras, Outgoing, email::{Composed, Sender}}, config::{Environment, self}, event::{Event, Sources}, routing::{RoutingTable, Delivery, EMBEDDED_ROUTES, Identity, Lookup}, template::{Globals, Rendered, Templates, source}};

/// Built once: it does not depend on the input.
pub static LINE: LazyLock<Line> = LazyLock::new(Line::new);

/// Routes, templates and a sender.
pub struct Line {
    pub routing: RoutingTable,
    pub files: source::Files,
    templates: Templates,
    sources: Sources,
    identity: Identity,
    sender: Sender,
}

impl Line {
    fn new() -> Self {
        let environment: Environment = [("SIMULATE", "always")].into_iter().collect();
        let (settings, _) = config::load(None, &environment).expect("the defaults are valid");
        let files = source::read(None).expect("the embedded templates are readable");
        let routing =
            RoutingTable::parse(EMBEDDED_ROUTES, &settings_of_routes()).expect("valid routes");
        let templates = Templates::compile(&files, &routing, Globals::new(&settings))
            .expect("templates compile");
        Self {
            routing,
            files,
            templates,
            sources: Sources::new(&settings).expect("no file is named"),
            identity: Identity::new("fuzz"),
            sender: Sender::new("Cine", "noreply@example.test", None).expect("an address"),
        }
    }

    /// The deliveries that an event asks for.
    pub fn deliveries(&self, event: &Event) -> Vec<Delivery> {
        match self.routing.lookup(&event.kind) {
            Lookup::Routes(routes) => self.routing.deliveries(routes, event, &self.identity),
            Lookup::Ignored | Lookup::Unknown => Vec::new(),
        }
    }

    /// The mail's parts; `None` if the event lacks something.
    pub fn render(&self, delivery: &Delivery, event: &Event) -> Option<Rendered> {
        let language = self.templates.language(&delivery.route, event);
        let variables = delivery.route.variables(event, &self.sources, &language).ok()?;
        let rendered = self.templates.render(&delivery.route, &variables, event);
        Some(rendered.expect("a shipped template renders whatever the values"))
    }

    /// The mail as it would be sent; `None` if the recipient is not an address.
    pub fn compose(
        &self,
        recipient: &str,
        rendered: Rendered,
        reply_to: Option<String>,
    ) -> Option<Composed> {
        let outgoing = Outgoing {
            recipient: recipient.to_owned(),
            message_id: "<fuzz@example.test>".to_owned(),
            date: None,
            rendered,
            extras: Extras { reply_to, ..Extras::default() },
        };
        self.sender.compose(&outgoing).ok()
    }
}

/// The addresses behind `{ setting = "…" }` in the routes.
pub fn settings_of_routes() -> HashMap<String, Vec<String>> {
    let address = || vec!["admin@example.test".to_owned()];
    HashMap::from([
        ("ADMIN_EMAILS".to_owned(), address()),
        ("CONTACT_EMAILS".to_owned(), address()),
    ])
}

/// Checks that only usher wrote headers and that every line ends in CRLF.
pub fn assert_mail_is_whole(mail: &[u8]) {
    const NAMES: [&str; 11] = [
        "From",
        "To",
        "Subject",
        "Message-ID",
        "Date",
        "Reply-To",
        "Auto-Submitted",
        "X-Auto-Response-Suppress",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    for (index, byte) in mail.iter().enumerate() {
        match byte {
            b'\n' => assert!(index > 0 && mail[index - 1] == b'\r', "a bare LF at {index}"),
            b'\r' => assert_eq!(mail.get(index + 1), Some(&b'\n'), "a bare CR at {index}"),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(mail);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let mut seen = Vec::new();
    for line in head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default();
        assert!(NAMES.contains(&name), "a header of somebody else's: {line:?}");
        assert!(!seen.contains(&name), "{name} twice");
        seen.push(name);
    }
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "a line of {} bytes", line.len());
    }
}
