//! What every command begins with: settings, routes and templates, all faults at once.

use std::{collections::HashMap, path::Path};

use crate::{
    broker::Message,
    catalog::{Catalog, EMBEDDED_ROUTES},
    channel::email::Sender,
    commands::Failure,
    config::{self, Environment, Settings, Warning},
    event::{self, Event, Properties},
    template::{Globals, Templates, files},
};

/// Settings, routes and templates, checked against each other.
pub(super) struct Loaded {
    pub(super) settings: Settings,
    pub(super) warnings: Vec<Warning>,
    pub(super) catalog: Catalog,
    pub(super) templates: Templates,
    pub(super) files: files::Files,
    pub(super) sender: Sender,
}

/// Reads everything.
///
/// # Errors
/// Every fault found, one a line, with the exit code for bad configuration.
pub(super) fn load(config: Option<&Path>) -> Result<Loaded, Failure> {
    load_with(config, &Environment::from_process())
}

pub(super) fn load_with(
    config: Option<&Path>,
    environment: &Environment,
) -> Result<Loaded, Failure> {
    let (settings, warnings) =
        config::load(config, environment).map_err(|faults| Failure::config(faults.to_string()))?;
    let mut faults = Vec::new();
    let email = &settings.email;
    let sender = Sender::new(&email.from_name, &email.from_address, email.reply_to.as_deref());
    let sender =
        sender.map_err(|reason| faults.push(format!("FROM_EMAIL or EMAIL_REPLY_TO: {reason}")));
    let catalog = read_catalog(&settings).map_err(|found| faults.extend(found));
    let files = files::read(settings.templates_dir.as_deref())
        .map_err(|error| faults.push(format!("templates: {error:#}")));
    let templates = match &files {
        Ok(files) => {
            Templates::compile(files, Globals::new(&settings)).map_err(|found| faults.extend(found))
        }
        Err(()) => Err(()),
    };
    if let (Ok(catalog), Ok(templates), Ok(files)) = (&catalog, &templates, &files) {
        faults.extend(try_samples(catalog, templates, files));
    }
    match (sender, catalog, templates, files) {
        (Ok(sender), Ok(catalog), Ok(templates), Ok(files)) if faults.is_empty() => {
            Ok(Loaded { settings, warnings, catalog, templates, files, sender })
        }
        _ => Err(Failure::config(faults.join("\n"))),
    }
}

fn read_catalog(settings: &Settings) -> Result<Catalog, Vec<String>> {
    let text = match &settings.routes_file {
        None => EMBEDDED_ROUTES.to_owned(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| vec![format!("ROUTES_FILE {}: {error}", path.display())])?,
    };
    let lists = HashMap::from([
        ("ADMIN_EMAILS".to_owned(), settings.admin_emails.clone()),
        ("CONTACT_EMAILS".to_owned(), settings.contact_emails.clone()),
    ]);
    let name = settings
        .routes_file
        .as_ref()
        .map_or("routes.toml".to_owned(), |path| path.display().to_string());
    Catalog::parse(&text, &lists)
        .map_err(|faults| faults.0.into_iter().map(|fault| format!("{name}: {fault}")).collect())
}

/// A template is accepted only if it renders all its samples in every locale.
fn try_samples(catalog: &Catalog, templates: &Templates, files: &files::Files) -> Vec<String> {
    let mut faults = Vec::new();
    for route in catalog.routes() {
        if !templates.contains(&route.template) {
            faults
                .push(format!("route {:?}: there is no template {:?}", route.name, route.template));
            continue;
        }
        let mut tried = false;
        for (path, text) in files::samples(files, &route.template) {
            let event = match sample(text) {
                Ok(event) => event,
                Err(reason) => {
                    faults.push(format!("templates/{path}: {reason}"));
                    continue;
                }
            };
            if event.kind != route.event && !route.aliases.contains(&event.kind) {
                continue;
            }
            tried = true;
            let variables = match route.variables(&event) {
                Ok(variables) => variables,
                Err(fault) => {
                    faults.push(format!("templates/{path}: route {:?}: {fault}", route.name));
                    continue;
                }
            };
            for locale in crate::template::LOCALES {
                if let Err(error) = templates.render(&route.template, locale, &variables, &event) {
                    faults.push(format!("templates/{path}: {error}"));
                }
            }
        }
        if !tried {
            faults.push(format!(
                "route {:?}: template {:?} has no sample of {:?}",
                route.name, route.template, route.event
            ));
        }
    }
    faults
}

/// Reads a sample or an event from a file.
pub(super) fn sample(text: &str) -> Result<Event, event::InvalidEvent> {
    event::parse(text.as_bytes(), &Properties::default(), "sample")
}

/// An event of a file as a message for a queue.
pub(super) fn message(body: Vec<u8>, queue: &str) -> Message {
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        timestamp: u64::try_from(jiff::Timestamp::now().as_second()).ok(),
        ..Properties::default()
    };
    Message { body, properties, queue: queue.to_owned(), redelivered: false, ticket: None }
}
