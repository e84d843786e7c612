//! `usher render`: the mails of an event, without sending them.

use std::{path::Path, process::ExitCode};

use anyhow::Context;

use super::{EXIT_DATA, Failure, load, quiet_logs, say};
use crate::{
    catalog::{Identity, Lookup},
    cli::RenderArgs,
    template::sample,
};

pub(super) fn render(config: Option<&Path>, args: &RenderArgs) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    quiet_logs(&loaded.settings);
    let text = read(&args.event)?;
    let mut event = sample(&text).map_err(|invalid| Failure::new(EXIT_DATA, invalid))?;
    if let Some(locale) = &args.locale {
        event.fields.insert("locale".into(), locale.clone().into());
    }
    let Lookup::Routes(routes) = loaded.catalog.lookup(&event.kind) else {
        return Err(Failure::new(
            EXIT_DATA,
            anyhow::anyhow!("no route for event type {:?}", event.kind),
        ));
    };
    let identity = Identity::new(loaded.settings.pepper.expose());
    let deliveries = loaded.catalog.deliveries(routes, &event, &identity);
    for delivery in &deliveries {
        let route = &delivery.route;
        let language = loaded.templates.language(&event);
        let variables = route
            .variables(&event, &loaded.sources, language)
            .map_err(|fault| Failure::new(EXIT_DATA, fault))?;
        let mail = loaded
            .templates
            .render(route, &variables, &event)
            .map_err(|error| Failure::new(super::EXIT_CONFIG, error))?;
        match &args.out {
            None => say(&format!(
                "route: {}\nto: {}\nsubject: {}\ntemplate: {} ({}, {})\n\n{}\n--- html ---\n{}",
                route.name,
                delivery.recipient.as_str(),
                mail.subject,
                mail.template.name,
                mail.template.locale,
                mail.template.version,
                mail.text,
                mail.html
            )),
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                for (ending, part) in
                    [("subject.txt", &mail.subject), ("txt", &mail.text), ("html", &mail.html)]
                {
                    let path = folder.join(format!("{}.{language}.{ending}", route.name));
                    std::fs::write(&path, part).with_context(|| path.display().to_string())?;
                    say(&path.display().to_string());
                }
            }
        }
    }
    if deliveries.is_empty() {
        say("this event asks for no mail with these settings");
    }
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input for `-`.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    text.with_context(|| path.display().to_string()).map_err(|error| Failure::new(EXIT_DATA, error))
}
