//! `usher render`: the mails of an event or of all samples, without sending them.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;

use super::{
    args::RenderArgs,
    gallery::{self, Shown},
    print, print_err,
};
use crate::{
    app::{
        load::{self, Loaded},
        shutdown,
    },
    channel::{Outgoing, sms},
    delivery::ComposeError,
    event::Event,
    failure::{EXIT_CONFIG, EXIT_DATA, Failure},
    logging,
    routing::{ChannelKind, Delivery, Identity, Lookup},
    template::{LANGUAGES, sample, source},
};

/// How often the files are looked at in watch mode.
const LOOK: Duration = Duration::from_millis(300);

pub(crate) async fn render(config: Option<&Path>, args: &RenderArgs) -> Result<ExitCode, Failure> {
    match (&args.event, &args.out) {
        (None, Some(out)) if args.watch => watch(config, out).await,
        (None, Some(out)) => all(&load::load(config)?, out, false),
        (Some(event), out) => one(config, event, args.locale.as_deref(), out.as_deref()),
        (None, None) => Err(Failure::new(EXIT_DATA, anyhow::anyhow!("which event?"))),
    }
}

fn one(
    config: Option<&Path>,
    event: &Path,
    locale: Option<&str>,
    out: Option<&Path>,
) -> Result<ExitCode, Failure> {
    let loaded = load::load(config)?;
    logging::init_quiet(loaded.settings.log_format);
    let text = read(event)?;
    let mut event = sample(&text).map_err(|invalid| Failure::new(EXIT_DATA, invalid))?;
    loaded.routing.normalize(&mut event);
    if let Some(locale) = locale {
        event.fields.insert("locale".into(), locale.into());
    }
    let deliveries = deliveries(&loaded, &event);
    let Some(deliveries) = deliveries else {
        let reason = anyhow::anyhow!("no route for event type {:?}", event.kind);
        return Err(Failure::new(EXIT_DATA, reason));
    };
    for delivery in &deliveries {
        let route = &delivery.route.name;
        let mail = outgoing(&loaded, delivery, &event)?;
        let rendered = &mail.rendered;
        let is_mail = delivery.route.channel == ChannelKind::Email;
        match out {
            None if !is_mail => print(&format!(
                "route: {route}\nto: {}\nsegments: {}\ntemplate: {} ({}, {})\n\n{}",
                mail.recipient,
                sms::segments(rendered.text.trim()),
                rendered.template.name,
                rendered.template.locale,
                rendered.template.version,
                rendered.text
            )),
            None => print(&format!(
                "route: {route}\nto: {}\nsubject: {}\ntemplate: {} ({}, {})\n\n{}\n--- html ---\n{}",
                mail.recipient,
                rendered.subject,
                rendered.template.name,
                rendered.template.locale,
                rendered.template.version,
                rendered.text,
                rendered.html
            )),
            Some(folder) => {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                let locale = &rendered.template.locale;
                let parts = [
                    ("txt", &rendered.text),
                    ("subject.txt", &rendered.subject),
                    ("html", &rendered.html),
                ];
                for (ending, part) in &parts[..if is_mail { 3 } else { 1 }] {
                    let path = folder.join(format!("{route}.{locale}.{ending}"));
                    std::fs::write(&path, part).with_context(|| path.display().to_string())?;
                    print(&path.display().to_string());
                }
            }
        }
    }
    if deliveries.is_empty() {
        print("this event asks for no mail with these settings");
    }
    Ok(ExitCode::SUCCESS)
}

/// Every sample of every template in every language, as a gallery.
fn all(loaded: &Loaded, out: &Path, reload: bool) -> Result<ExitCode, Failure> {
    let mut mails = Vec::new();
    for (path, text) in loaded.files.iter().filter(|(path, _)| path.ends_with(".json")) {
        let Some((template, sample_name)) = path.split_once("/samples/") else { continue };
        for language in LANGUAGES {
            let mut event = sample(text).map_err(|invalid| Failure::new(EXIT_CONFIG, invalid))?;
            loaded.routing.normalize(&mut event);
            // A sample of a region shows how it is written there.
            let own = event.text("locale").filter(|locale| locale.starts_with(language));
            let locale = own.unwrap_or(language).to_owned();
            event.fields.insert("locale".into(), locale.into());
            for delivery in deliveries(loaded, &event).into_iter().flatten() {
                if delivery.route.template == template {
                    let title = format!(
                        "{} of {}",
                        sample_name.trim_end_matches(".json"),
                        delivery.route.name
                    );
                    let channel = delivery.route.channel;
                    let mail = outgoing(loaded, &delivery, &event)?;
                    mails.push(Shown { title, channel, mail });
                }
            }
        }
    }
    let index = gallery::write(out, "usher: every mail", &mails, &loaded.sender, reload)
        .context("writing the gallery")?;
    print(&format!("{}: {}", gallery::count(&mails), index.display()));
    Ok(ExitCode::SUCCESS)
}

/// Again at each change of the files. What is wrong with them is said, and the last good gallery
/// stays.
async fn watch(config: Option<&Path>, out: &Path) -> Result<ExitCode, Failure> {
    let settings = load::settings(config)?;
    let stop = shutdown::on_signal().context("listening to signals")?;
    let read = || {
        let routes = settings.routes_file.as_deref().map(std::fs::read_to_string);
        (routes.and_then(Result::ok), source::read(settings.templates_dir.as_deref()).ok())
    };
    if settings.templates_dir.is_none() && settings.routes_file.is_none() {
        print_err("usher: neither TEMPLATES_DIR nor ROUTES_FILE is set: nothing can change");
    }
    let mut shown = None;
    while !stop.is_cancelled() {
        let now = read();
        if shown.as_ref() != Some(&now) {
            shown = Some(now);
            match load::load(config).and_then(|loaded| all(&loaded, out, true)) {
                Ok(_) => {}
                Err(failure) => print_err(&format!("usher: {failure}")),
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the event asks for, or nothing if there is no route for it.
fn deliveries(loaded: &Loaded, event: &Event) -> Option<Vec<Delivery>> {
    let Lookup::Routes(routes) = loaded.routing.lookup(&event.kind) else { return None };
    let identity = Identity::new(loaded.settings.pepper.expose());
    Some(loaded.routing.deliveries(routes, event, &identity))
}

/// The mail as it would leave.
pub(crate) fn outgoing(
    loaded: &Loaded,
    delivery: &Delivery,
    event: &Event,
) -> Result<Outgoing, Failure> {
    let composer = loaded.composer();
    let composed = composer
        .variables(delivery, event)
        .and_then(|variables| composer.compose(delivery, event, &variables));
    composed.map_err(|error| {
        let code = if matches!(error, ComposeError::Template(_)) { EXIT_CONFIG } else { EXIT_DATA };
        Failure::new(code, error)
    })
}

/// A file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    text.with_context(|| path.display().to_string()).map_err(|error| Failure::new(EXIT_DATA, error))
}
