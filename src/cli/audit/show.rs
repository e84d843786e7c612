//! `usher audit show`: the story of one delivery, and its mail rendered again.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use serde_json::json;

use super::{AuditCli, print, recipient};
use crate::{
    app::load::Loaded,
    audit::{Record, Smtp, Status},
    cli::{
        args::ShowArgs,
        output::{Colour, Screen, colour_of, one_line},
    },
    failure::Failure,
    routing::DeliveryId,
    template::Rendered,
};

/// How many deliveries are named where a beginning is of more than one.
const NAMED: usize = 5;

impl AuditCli {
    pub(super) async fn show(&self, args: &ShowArgs, loaded: &Loaded) -> Result<ExitCode, Failure> {
        let delivery = self.delivery(&args.delivery).await?;
        let records = self.audit.history(&delivery).await.map_err(Failure::unavailable)?;
        let actions =
            self.audit.actions_on(delivery.as_str()).await.map_err(Failure::unavailable)?;
        // What another event told of the same fact made no mail.
        let told = records.iter().rev().filter(|record| record.status != Status::Duplicate);
        let last = told.clone().next().or(records.last());
        let Some(last) = last else {
            return Err(Failure::data(format!("no record of delivery {delivery}")));
        };
        let made = told.clone().find(|record| record.template.is_some()).unwrap_or(last);
        let mail = self.mail_of(made, loaded).await?;
        if args.json {
            let mail = match &mail {
                Ok(mail) => json!({"subject": mail.subject, "text": mail.text, "html": mail.html}),
                Err(reason) => json!({"none": reason}),
            };
            let all = json!({"delivery_id": delivery, "records": records, "actions": actions, "mail": mail});
            print(&all.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        let screen = Screen::new();
        head(screen, last, made);
        for record in &records {
            attempt(screen, record);
        }
        for action in &actions {
            let at = action.at.map(|at| at.to_string()).unwrap_or_default();
            let line = format!("{at}  {} by {}  {}", action.action, action.by, action.reason);
            print(&one_line(line.trim_end()));
        }
        print("");
        match (mail, &args.out) {
            (Err(reason), _) => print(&screen.paint(&format!("no mail: {reason}"), Colour::Faint)),
            (Ok(mail), None) => print_mail(screen, &mail, args.html),
            (Ok(mail), Some(folder)) => write(folder, &delivery, &mail)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The only delivery whose id begins like this.
    async fn delivery(&self, beginning: &str) -> Result<DeliveryId, Failure> {
        if let Ok(id) = DeliveryId::from_stored(beginning) {
            return Ok(id);
        }
        if beginning.is_empty() || !beginning.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::data(format!("{beginning:?} is no delivery id")));
        }
        let mut found =
            self.audit.beginning_with(beginning, NAMED).await.map_err(Failure::unavailable)?;
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(Failure::data(format!("no delivery's id begins with {beginning}"))),
            (Some(id), true) => Ok(id),
            (Some(id), false) => {
                let ids: Vec<String> = found.iter().chain([&id]).map(ToString::to_string).collect();
                let ids = ids.join(", ");
                Err(Failure::data(format!(
                    "more than one delivery's id begins with {beginning}: {ids}"
                )))
            }
        }
    }
}

fn head(screen: Screen, last: &Record, made: &Record) {
    print(&format!("delivery  {}", last.delivery_id));
    let source = last.event.id_source.and_then(|source| serde_json::to_value(source).ok());
    let source = source.and_then(|source| Some(format!(" ({})", source.as_str()?)));
    let mut lines = vec![
        ("event", format!("{}  {}{}", last.event.kind, last.event.id, source.unwrap_or_default())),
        ("from", last.event.source.clone()),
        ("to", format!("{}  hash {}", recipient(last), last.recipient_hash)),
    ];
    let about: Vec<String> =
        last.correlation.iter().map(|(name, value)| format!("{name} {value}")).collect();
    lines.push(("about", about.join(", ")));
    lines.push(("route", last.route.clone()));
    if let Some(template) = &made.template {
        let words =
            format!("{} in {}, version {}", template.name, template.locale, template.version);
        lines.push(("template", words));
    }
    lines.push(("mail", made.message_id.clone().unwrap_or_default()));
    lines.push(("trace", last.trace_id.clone().unwrap_or_default()));
    if let Some(at) = last.erased_at {
        lines.push(("erased", at.to_string()));
    }
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        print(&format!(
            "{}{}",
            screen.paint(&format!("{name:10}"), Colour::Faint),
            one_line(&value)
        ));
    }
    print("");
}

fn attempt(screen: Screen, record: &Record) {
    let status = screen.paint(record.status.as_str(), colour_of(record.status));
    let at = record.at.strftime("%Y-%m-%d %H:%M:%S%.3f");
    let error = record.error.as_ref();
    let kind =
        error.map(|error| error.kind.as_str()).filter(|kind| *kind != record.status.as_str());
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    print(&format!("{at}  attempt {}  {status}{kind}", record.attempt));
    let mut notes = Vec::new();
    match (&record.smtp, error) {
        (Some(smtp), _) => notes.push(reply(smtp)),
        (None, Some(error)) => notes.push(error.message.clone()),
        (None, None) => {}
    }
    let timings = &record.timings;
    let steps = [
        ("queued", timings.queued_ms.filter(|_| record.attempt == 1).map(|ms| ms as f64)),
        ("waited", Some(timings.claim_ms)),
        ("rendered", Some(timings.render_ms)),
        ("sent", Some(timings.send_ms)),
    ];
    let steps = steps
        .into_iter()
        .filter_map(|(name, ms)| ms.filter(|ms| *ms > 0.0).map(|ms| format!("{name} {ms} ms")));
    notes.push(steps.collect::<Vec<_>>().join(", "));
    notes.extend(record.due.map(|due| format!("again at {}", due.strftime("%Y-%m-%d %H:%M:%S"))));
    if record.status == Status::Duplicate {
        notes.push(format!("event {}", record.event.id));
    }
    for note in notes.iter().filter(|note| !note.is_empty()) {
        print(&format!("    {}", one_line(note)));
    }
}

fn reply(smtp: &Smtp) -> String {
    // Most servers say the enhanced code in the reply too.
    let enhanced = smtp.enhanced.as_deref().filter(|code| !smtp.reply.starts_with(*code));
    let enhanced = enhanced.map(|code| format!("{code} ")).unwrap_or_default();
    format!("{} to {}: {} {enhanced}{}", smtp.server, smtp.command, smtp.code, smtp.reply)
}

fn print_mail(screen: Screen, mail: &Rendered, with_html: bool) {
    let part = |name: &str| {
        let line = format!("── {name} ");
        let rest = screen.width.unwrap_or(80).min(80).saturating_sub(line.chars().count());
        print(&screen.paint(&format!("{line}{}", "─".repeat(rest)), Colour::Faint));
    };
    part("subject");
    print(&one_line(&mail.subject));
    part("text");
    // Lines stay lines; nothing else commands the terminal.
    mail.text.trim_end().lines().for_each(|line| print(&one_line(line)));
    if with_html {
        part("html");
        mail.html.lines().for_each(|line| print(&one_line(line)));
    }
}

fn write(folder: &Path, delivery: &DeliveryId, mail: &Rendered) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (ending, part) in
        [("subject.txt", &mail.subject), ("txt", &mail.text), ("html", &mail.html)]
    {
        let path = folder.join(format!("{delivery}.{ending}"));
        std::fs::write(&path, part).with_context(|| path.display().to_string())?;
        print(&path.display().to_string());
    }
    Ok(())
}
