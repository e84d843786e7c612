//! `usher audit show`: the attempts of one delivery, and its mail rendered again.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use console::Style;
use serde_json::json;

use super::{AuditCli, recipient, waits_because};
use crate::{
    app::configuration::Configuration,
    audit::{
        Receipt, Record, Smtp, Status,
        store::{actions::RecordedAction, search::Filter},
    },
    cli::{
        delivery_ids,
        embedded::EmbeddedArgs,
        output::{Line, faint, paint, print, status_style, width},
        write_parts,
    },
    delivery::render_again::{difference, render_again},
    failure::Failure,
    ledger::WaitingMark,
    routing::DeliveryId,
    template::Rendered,
    text::one_line,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// Delivery id, or its beginning.
    delivery: String,
    /// Print the HTML part of the mail too.
    #[arg(long)]
    html: bool,
    /// Folder for the parts of the mail, instead of printing them.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) source: EmbeddedArgs,
}

impl AuditCli {
    pub(super) async fn show(
        &self,
        args: &ShowArgs,
        loaded: &Configuration,
    ) -> Result<ExitCode, Failure> {
        let delivery = delivery_ids::from_beginning(&*self.reads, &args.delivery).await?;
        let records = self.reads.history(&delivery).await.map_err(Failure::unavailable)?;
        let actions =
            self.reads.actions_on(delivery.as_str()).await.map_err(Failure::unavailable)?;
        let receipts = self.reads.receipts_on(&delivery).await.map_err(Failure::unavailable)?;
        // A duplicate has no mail of its own.
        let attempts = records.iter().rev().filter(|record| record.status != Status::Duplicate);
        let named = Filter { delivery: Some(delivery.clone()), ..Filter::default() };
        let waiting = self.waiting(&named).await;
        let Some(last) = attempts.clone().next().or(records.last()) else {
            return match waiting.first() {
                Some(mark) => show_waiting(mark, args.json),
                None => Err(Failure::data(format!("no record of delivery {delivery}"))),
            };
        };
        let rendered = attempts.clone().find(|record| record.template.is_some()).unwrap_or(last);
        let mail = render_again(rendered, &loaded.routing, &loaded.templates).await;
        let mail = mail.map_err(Failure::unavailable)?;
        if args.json {
            let mail = match &mail {
                Ok(mail) => json!({
                    "subject": mail.subject, "text": mail.text, "html": mail.html,
                    "differs": difference(rendered, mail),
                }),
                Err(reason) => json!({"none": reason}),
            };
            let shown = json!({
                "delivery_id": delivery, "records": records, "actions": actions, "mail": mail,
                "waiting": waiting.first(), "receipts": receipts,
            });
            print(&shown.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        print_delivery(last, rendered);
        records.iter().for_each(print_attempt);
        receipts.iter().for_each(print_receipt);
        actions.iter().for_each(|action| print_action(action, &delivery));
        waiting.iter().for_each(print_waiting);
        print("");
        if let Some(reason) = mail.as_ref().ok().and_then(|mail| difference(rendered, mail)) {
            let warning = format!("this is not what went out: {reason}");
            print(paint(&warning, &status_style(Status::Failed)));
            print("");
        }
        match (mail, &args.out) {
            (Err(reason), _) => print(faint(&format!("no mail: {reason}"))),
            (Ok(mail), None) => print_mail(&mail, args.html),
            (Ok(mail), Some(folder)) => {
                let parts =
                    [("subject.txt", &*mail.subject), ("txt", &mail.text), ("html", &mail.html)];
                write_parts(folder, delivery.as_str(), &parts)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A delivery that has no record yet.
fn show_waiting(mark: &WaitingMark, as_json: bool) -> Result<ExitCode, Failure> {
    if as_json {
        let shown = json!({
            "delivery_id": mark.delivery_id, "records": [], "actions": [], "waiting": mark,
        });
        print(&shown.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let lines = [
        ("delivery", mark.delivery_id.to_string()),
        ("event", format!("{}  {}", mark.event_type, mark.event_id)),
        ("to", mark.recipient.clone()),
        ("route", mark.route.clone()),
    ];
    for (name, value) in lines {
        print(faint(&format!("{name:10}")) + &one_line(&value));
    }
    print("");
    print_waiting(mark);
    Ok(ExitCode::SUCCESS)
}

fn print_waiting(mark: &WaitingMark) {
    let since = mark.since.strftime("%Y-%m-%d %H:%M:%S");
    let attempt = mark.attempt;
    print(
        Line::from(&format!("since {since}  attempt {attempt}  "))
            + paint("waiting", &Style::new().yellow()),
    );
    print(&format!("    {}", one_line(&waits_because(mark))));
}

fn print_delivery(last: &Record, rendered: &Record) {
    let source = last.event.id_source.and_then(|source| serde_json::to_value(source).ok());
    let source = source.and_then(|source| Some(format!(" ({})", source.as_str()?)));
    let about: Vec<String> =
        last.correlation.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let template = rendered.template.as_ref().map(|template| {
        format!("{} in {}, version {:.12}", template.name, template.locale, template.version)
    });
    let message = rendered.message.as_ref();
    let zone = message.and_then(|it| it.time_zone.as_ref());
    let template = match (template, zone) {
        (Some(template), Some(zone)) => Some(format!("{template}, times of {zone}")),
        (template, _) => template,
    };
    let brand = message.and_then(|it| it.brand.clone());
    let sender = message.and_then(|it| {
        Some(format!("{} <{}>", it.from_name.as_deref()?, it.from_address.as_deref()?))
    });
    let sha256 = message.and_then(|it| it.sha256.clone());
    let lines = [
        ("delivery", last.delivery_id.to_string()),
        ("event", format!("{}  {}{}", last.event.kind, last.event.id, source.unwrap_or_default())),
        ("from", last.event.source.clone()),
        ("to", format!("{}  hash {}", recipient(last), last.recipient_hash)),
        ("about", about.join(", ")),
        ("route", last.route.clone()),
        ("template", template.unwrap_or_default()),
        ("brand", brand.unwrap_or_default()),
        ("sender", sender.unwrap_or_default()),
        ("mail", rendered.message_id.clone().unwrap_or_default()),
        ("sha256", sha256.unwrap_or_default()),
        ("trace", last.trace_id.clone().unwrap_or_default()),
        ("erased", last.erased_at.map(|at| at.to_string()).unwrap_or_default()),
    ];
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        print(faint(&format!("{name:10}")) + &one_line(&value));
    }
    print("");
}

fn print_attempt(record: &Record) {
    let status = paint(record.status.as_str(), &status_style(record.status));
    let at = record.at.strftime("%Y-%m-%d %H:%M:%S%.3f");
    let error = record.error.as_ref();
    let kind = error.map(|error| error.kind.as_str());
    let kind = kind.filter(|kind| *kind != record.status.as_str());
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    print(Line::from(&format!("{at}  attempt {}  ", record.attempt)) + status + &kind);
    let answer = match (&record.smtp, error) {
        (Some(smtp), _) => reply(smtp),
        (None, Some(error)) => error.message.clone(),
        (None, None) => String::new(),
    };
    let retry = record.due.map(|due| format!("again at {}", due.strftime("%Y-%m-%d %H:%M:%S")));
    let duplicate =
        (record.status == Status::Duplicate).then(|| format!("event {}", record.event.id));
    let notes =
        [answer, durations(record), retry.unwrap_or_default(), duplicate.unwrap_or_default()];
    for note in notes.iter().filter(|note| !note.is_empty()) {
        print(&format!("    {}", one_line(note)));
    }
}

fn durations(record: &Record) -> String {
    let timings = &record.timings;
    let queued = timings.queued_ms.filter(|_| record.attempt == 1);
    let steps = [
        ("queued", queued.map_or(0.0, |ms| ms as f64)),
        ("waited", timings.claim_ms),
        ("rendered", timings.render_ms),
        ("sent", timings.send_ms),
    ];
    let steps = steps.iter().filter(|(_, ms)| *ms > 0.0);
    steps.map(|(name, ms)| format!("{name} {ms} ms")).collect::<Vec<_>>().join(", ")
}

fn reply(smtp: &Smtp) -> String {
    // Most servers repeat the enhanced code in the text.
    let enhanced = smtp.enhanced.as_deref().filter(|code| !smtp.reply.starts_with(*code));
    let enhanced = enhanced.map(|code| format!("{code} ")).unwrap_or_default();
    format!("{} to {}: {} {enhanced}{}", smtp.server, smtp.command, smtp.code, smtp.reply)
}

fn print_action(action: &RecordedAction, delivery: &DeliveryId) {
    let at = action.at.map(|at| at.to_string()).unwrap_or_default();
    let link = match &action.became {
        Some(became) if became == delivery.as_str() => format!(" of {}", action.target),
        Some(became) => format!(" as {became}"),
        None => String::new(),
    };
    let outcome = action.outcome.as_ref().map(|it| format!(" as {it}")).unwrap_or_default();
    let RecordedAction { action: name, by, reason, .. } = action;
    print(&one_line(format!("{at}  {name}{link}{outcome} by {by}  {reason}").trim_end()));
    for change in &action.changes {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let (before, after) = (text(&change.before), text(&change.after));
        print(&one_line(&format!("    {}: {before} -> {after}", change.field)));
    }
}

fn print_receipt(receipt: &Receipt) {
    let at = receipt.at.strftime("%Y-%m-%d %H:%M:%S%.3f");
    print(&one_line(&format!("{at}  {}", receipt.summary())));
    let evidence = &receipt.evidence;
    let reporter = evidence.reporting_mta.as_deref().unwrap_or("a server");
    let remote = evidence.remote_mta.as_ref().map(|remote| format!(" of {remote}"));
    let words = evidence.diagnostic.as_ref().map(|words| format!(": {words}"));
    let note = format!(
        "{reporter} by {}{}{}",
        evidence.source,
        remote.unwrap_or_default(),
        words.unwrap_or_default()
    );
    print(&format!("    {}", one_line(&note)));
}

fn print_mail(mail: &Rendered, with_html: bool) {
    let heading = |name: &str| {
        let line = format!("── {name} ");
        let rest = width().unwrap_or(80).min(80).saturating_sub(line.chars().count());
        print(faint(&format!("{line}{}", "─".repeat(rest))));
    };
    let print_lines = |part: &str| part.lines().for_each(|line| print(&one_line(line)));
    heading("subject");
    print(&one_line(&mail.subject));
    heading("text");
    print_lines(mail.text.trim_end());
    if with_html {
        heading("html");
        print_lines(&mail.html);
    }
}
