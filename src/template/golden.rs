//! Every mail of every sample, in every language, as it was when somebody looked at it:
//! `tests/golden`. After a change of templates, `cargo insta review` shows what became of each.

use std::collections::HashMap;

use super::{Globals, Templates, Trial, sample, source};
use crate::{
    config::{self, Environment},
    event::Sources,
    routing::{EMBEDDED_ROUTES, RoutingTable},
};

/// One brand for all, with every optional part.
const SETTINGS: [(&str, &str); 7] = [
    ("SIMULATE", "always"),
    ("FROM_EMAIL", "tickets@example.com"),
    ("BRAND_NAME", "Example Cinema"),
    ("BRAND_WEBSITE_URL", "https://cinema.example"),
    ("BRAND_SUPPORT_URL", "https://cinema.example/help"),
    ("BRAND_SECURITY_URL", "https://cinema.example/security"),
    ("BRAND_SUPPORT_EMAIL", "help@cinema.example"),
];

#[test]
fn every_mail_is_as_it_was_reviewed() {
    let environment: Environment = SETTINGS.into_iter().collect();
    let (settings, _) = config::load(None, &environment).unwrap();
    let team = || vec!["team@example.com".to_owned()];
    let lists = HashMap::from([("ADMIN_EMAILS".into(), team()), ("CONTACT_EMAILS".into(), team())]);
    let routing = RoutingTable::parse(EMBEDDED_ROUTES, &lists).unwrap();
    let files = source::read(None).unwrap();
    let templates = Templates::compile(&files, &routing, Globals::new(&settings)).unwrap();
    let sources = Sources::new(&settings).unwrap();
    let faults = templates.try_all(Trial { routing: &routing, files: &files, sources: &sources });
    assert_eq!(faults, [""; 0]);

    let mut golden = insta::Settings::clone_current();
    golden.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    golden.set_prepend_module_to_snapshot(false);
    golden.set_omit_expression(true);
    let _golden = golden.bind_to_scope();
    for route in routing.routes() {
        for (path, text) in source::samples(&files, &route.template) {
            for language in source::languages(&files, &route.template) {
                // Languages share their markup: of those that came later one sample is looked at.
                if !matches!(language, "en" | "es") && !path.ends_with("/full.json") {
                    continue;
                }
                let mut event = sample(text).unwrap();
                routing.normalize(&mut event);
                if event.kind != route.event {
                    continue;
                }
                // A sample of a region is written as there.
                let own = event.text("locale").filter(|locale| locale.starts_with(language));
                let locale = own.unwrap_or(language).to_owned();
                event.fields.insert("locale".into(), locale.into());
                let day = "2024-12-10T18:00:00Z".parse().unwrap();
                event.occurred_at.get_or_insert(day);
                let variables = route.variables(&event, &sources, language).unwrap();
                let mail = templates.render(route, &variables, &event).unwrap();
                let sample = path.rsplit('/').next().unwrap().trim_end_matches(".json");
                // A tag a line, so that a difference shows where it is.
                let html = mail.html.replace("><", ">\n<");
                insta::assert_snapshot!(
                    format!("{}.{language}.{sample}", route.name),
                    format!("{}\n\n{}\n\n{html}", mail.subject, mail.text)
                );
            }
        }
    }
}
