//! `usher render`: the messages of one event, or a gallery of all samples.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use super::{
    decision::ByArgs,
    gallery::{self, GalleryMessage},
    output::{print, print_err},
    read_input, send_test, write_parts,
};
use crate::{
    app::{
        configuration::{self, Configuration},
        shutdown,
    },
    channel::{Outgoing, sms},
    delivery::ComposeError,
    event::Event,
    failure::{EXIT_CONFIG, EXIT_DATA, Failure},
    logging,
    routing::{BrandChoice, ChannelKind, Delivery, Identity, Lookup},
    supervisor::Supervisor,
    template::{sample, source},
};

/// How often `--watch` compares the files.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Event as published; - is standard input.
    #[arg(required_unless_present = "all")]
    event: Option<PathBuf>,
    /// Render every sample in every language into a gallery.
    #[arg(long, requires = "out", conflicts_with_all = ["event", "locale"])]
    all: bool,
    /// Render again whenever ROUTES_FILE or TEMPLATES_DIR changes, until interrupted (with --all).
    #[arg(long, requires = "all")]
    watch: bool,
    /// Locale to render in, instead of the event's.
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
    /// Folder for the parts of each message, instead of printing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Send the event's first mail to this address, marked as a test in its subject and in the audit.
    #[arg(long, value_name = "ADDRESS", requires = "event", conflicts_with_all = ["all", "out"])]
    send_to: Option<String>,
    #[command(flatten)]
    by: ByArgs,
}

pub(super) async fn run(config: Option<&Path>, args: &RenderArgs) -> Result<ExitCode, Failure> {
    match (&args.event, &args.out) {
        (None, Some(out)) if args.watch => watch(config, out).await?,
        (None, Some(out)) => render_gallery(&configuration::load(config)?, out, false)?,
        (Some(event), out) => {
            let loaded = configuration::load(config)?;
            logging::init_quiet(loaded.settings.log_format)?;
            let rendered = render_event(&loaded, event, args.locale.as_deref())?;
            match (&args.send_to, out) {
                (Some(to), _) => {
                    let mut mails = rendered.into_iter();
                    let mail = mails.find(|(one, _)| one.route.channel == ChannelKind::Email);
                    let Some((delivery, mail)) = mail else {
                        return Err(Failure::data("this event asks for no mail"));
                    };
                    let (route, by) = (&delivery.route.name, args.by.name()?);
                    Box::pin(send_test::send(&loaded, route, mail, to, &by)).await?;
                }
                (None, Some(folder)) => {
                    for (delivery, message) in &rendered {
                        write_message(folder, delivery, message)?;
                    }
                }
                (None, None) => {
                    rendered
                        .iter()
                        .for_each(|(delivery, message)| print_message(delivery, message));
                }
            }
        }
        (None, None) => return Err(Failure::data("no event was given")),
    }
    Ok(ExitCode::SUCCESS)
}

fn render_event(
    loaded: &Configuration,
    event: &Path,
    locale: Option<&str>,
) -> Result<Vec<(Delivery, Outgoing)>, Failure> {
    let text = read_input(event)?;
    let mut event = sample(&text).map_err(|invalid| Failure::new(EXIT_DATA, invalid))?;
    loaded.routing.normalize(&mut event);
    if let Some(locale) = locale {
        event.fields.insert("locale".into(), locale.into());
    }
    let deliveries = deliveries(loaded, &event)
        .ok_or_else(|| Failure::data(format!("no route for event type {:?}", event.kind)))?;
    if let Lookup::Routes(routes) = loaded.routing.lookup(&event.kind) {
        for reason in loaded.routing.ignored_in(routes, &event) {
            print_err(&format!("usher: ignored: {reason}"));
        }
    }
    if deliveries.is_empty() {
        print("this event asks for no message with these settings");
    }
    let rendered = deliveries.into_iter().map(|delivery| {
        let message = outgoing(loaded, &delivery, &event)?;
        Ok((delivery, message))
    });
    rendered.collect()
}

fn print_message(delivery: &Delivery, message: &Outgoing) {
    let rendered = &message.rendered;
    let (route, template) = (&delivery.route.name, &rendered.template);
    let (about, html) = match delivery.route.channel {
        ChannelKind::Email => {
            (format!("subject: {}", rendered.subject), format!("\n--- html ---\n{}", rendered.html))
        }
        ChannelKind::Sms => {
            (format!("segments: {}", sms::segments(rendered.text.trim())), String::new())
        }
    };
    print(&format!(
        "route: {route}\nto: {}\n{about}\ntemplate: {} ({}, {:.12})\n\n{}{html}",
        message.recipient, template.name, template.locale, template.version, rendered.text
    ));
}

fn write_message(folder: &Path, delivery: &Delivery, message: &Outgoing) -> Result<(), Failure> {
    let rendered = &message.rendered;
    let parts = [
        ("txt", rendered.text.as_str()),
        ("subject.txt", &rendered.subject),
        ("html", &rendered.html),
    ];
    let count = if delivery.route.channel == ChannelKind::Email { parts.len() } else { 1 };
    let name = format!("{}.{}", delivery.route.name, rendered.template.locale);
    write_parts(folder, &name, &parts[..count])
}

fn render_gallery(loaded: &Configuration, out: &Path, reload: bool) -> Result<(), Failure> {
    let mut messages = Vec::new();
    for (path, text) in loaded.files.iter().filter(|(path, _)| path.ends_with(".json")) {
        let Some((template, sample_name)) = path.split_once("/samples/") else { continue };
        for language in source::languages(&loaded.files, template) {
            let mut event = sample(text).map_err(|invalid| Failure::new(EXIT_CONFIG, invalid))?;
            loaded.routing.normalize(&mut event);
            // A sample of a region, such as es-MX, is shown in that region's spelling.
            let regional = event.text("locale").filter(|locale| locale.starts_with(language));
            let locale = regional.unwrap_or(language).to_owned();
            event.fields.insert("locale".into(), locale.into());
            for event in in_each_brand(loaded, template, event) {
                let deliveries = deliveries(loaded, &event).into_iter().flatten();
                for delivery in deliveries.filter(|delivery| delivery.route.template == template) {
                    let sample_name = sample_name.trim_end_matches(".json");
                    let brand = delivery.route.brand_of(&event).map_err(Failure::data)?;
                    let brand = brand.map(|name| format!(", brand {name}")).unwrap_or_default();
                    messages.push(GalleryMessage {
                        title: format!("{sample_name} of {}{brand}", delivery.route.name),
                        channel: delivery.route.channel,
                        message: outgoing(loaded, &delivery, &event)?,
                    });
                }
            }
        }
    }
    let index = gallery::write(out, "usher: every message", &messages, &loaded.sender, reload)
        .context("writing the gallery")?;
    print(&format!("{}: {}", gallery::count(&messages), index.display()));
    Ok(())
}

/// A sample once in each brand that events may choose; as it is as well, if it chooses none.
fn in_each_brand(loaded: &Configuration, template: &str, event: Event) -> Vec<Event> {
    let routes = loaded.routing.routes().into_iter().filter(|route| route.template == template);
    let mut choices = routes.filter_map(|route| match &route.brand {
        Some(BrandChoice::Field(choice)) => Some(choice),
        _ => None,
    });
    let Some(choice) = choices.next() else { return vec![event] };
    let branded = choice.allow.iter().map(|name| {
        let mut branded = event.clone();
        branded.fields.insert(choice.field.clone(), name.as_str().into());
        branded
    });
    let mut events: Vec<Event> = branded.collect();
    if !event.fields.contains_key(&choice.field) {
        events.insert(0, event);
    }
    events
}

/// Renders at each change of the files. A fault is printed, and the last good gallery stays.
async fn watch(config: Option<&Path>, out: &Path) -> Result<(), Failure> {
    let settings = configuration::settings(config)?;
    let stop = shutdown::on_signal(&Supervisor::default()).context("listening for signals")?;
    let read_files = || {
        let routes = settings.routes_file.as_deref().map(std::fs::read_to_string);
        (routes.and_then(Result::ok), source::read(settings.templates_dir.as_deref()).ok())
    };
    if settings.templates_dir.is_none() && settings.routes_file.is_none() {
        print_err("usher: neither TEMPLATES_DIR nor ROUTES_FILE is set, so nothing can change");
    }
    let mut rendered = None;
    while !stop.is_cancelled() {
        let files = read_files();
        if rendered.as_ref() != Some(&files) {
            rendered = Some(files);
            let result =
                configuration::load(config).and_then(|loaded| render_gallery(&loaded, out, true));
            if let Err(failure) = result {
                print_err(&format!("usher: {failure}"));
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await;
    }
    Ok(())
}

/// The deliveries that the event asks for; `None` if its type has no route.
fn deliveries(loaded: &Configuration, event: &Event) -> Option<Vec<Delivery>> {
    let Lookup::Routes(routes) = loaded.routing.lookup(&event.kind) else { return None };
    let identity = Identity::new(loaded.settings.pepper.expose());
    Some(loaded.routing.deliveries(routes, event, &identity))
}

/// Composes the message as it would be sent.
pub(super) fn outgoing(
    loaded: &Configuration,
    delivery: &Delivery,
    event: &Event,
) -> Result<Outgoing, Failure> {
    let composer = loaded.composer();
    let composed = composer
        .variables(delivery, event)
        .and_then(|variables| composer.compose(delivery, event, &variables, None));
    composed.map_err(|error| {
        let code = if matches!(error, ComposeError::Template(_)) { EXIT_CONFIG } else { EXIT_DATA };
        Failure::new(code, error)
    })
}
