//! Web pages that show messages as their recipients see them: mails wide and narrow, light and dark, with
//! headers and text part, and text messages with their length.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use handlebars::html_escape;

use crate::{
    channel::{Outgoing, email::Sender, sms},
    private_files,
    routing::ChannelKind,
    template::Rendered,
};

pub(super) struct GalleryMessage {
    /// Shown beside the subject.
    pub(super) title: String,
    pub(super) channel: ChannelKind,
    pub(super) message: Outgoing,
}

/// `12 mails, 3 text messages`.
pub(super) fn count(messages: &[GalleryMessage]) -> String {
    let is_mail = |message: &&GalleryMessage| message.channel == ChannelKind::Email;
    let mails = messages.iter().filter(is_mail).count();
    format!("{mails} mails, {} text messages", messages.len() - mails)
}

const STYLE: &str = "
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1280px; padding: 24px; }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 24px; }
  .views { display: flex; flex-wrap: wrap; gap: 24px; }
  article, figure { border: 1px solid #8886; border-radius: 10px; overflow: hidden; margin: 0; }
  header, figcaption { padding: 12px 16px; }
  h2 { font-size: 16px; margin: 0 0 4px; }
  header p, figcaption { margin: 0; font-size: 13px; opacity: .8; }
  article iframe { border: 0; width: 100%; height: 560px; background: #fff; }
  figure iframe { border: 0; height: 900px; background: #fff; display: block; }
  blockquote { margin: 16px; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 18px; padding: 12px 16px; background: #8883; }
  h1, h2, pre, blockquote { unicode-bidi: plaintext; text-align: start; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; border-radius: 10px; padding: 16px; }
";

/// Widths in pixels at which mails are shown.
const WIDTHS: [(&str, u32); 2] = [("desktop", 800), ("phone", 375)];

/// Writes an index, and the parts and a page for each mail; returns the path of the index. With `reload`,
/// open pages follow changes.
pub(super) fn write(
    folder: &Path,
    heading: &str,
    messages: &[GalleryMessage],
    sender: &Sender,
    reload: bool,
) -> anyhow::Result<PathBuf> {
    private_files::create_folder(&folder.join("gallery"))?;
    let mut index = head(heading, reload);
    index.push_str("<main>\n");
    let mut sorted: Vec<&GalleryMessage> = messages.iter().collect();
    sorted.sort_by_key(|entry| {
        let template = &entry.message.rendered.template;
        (&template.name, &template.locale, &entry.title)
    });
    for (number, entry) in sorted.into_iter().enumerate() {
        let rendered = &entry.message.rendered;
        let template = &rendered.template;
        let name = format!("{number:03}-{}-{}", template.name, template.locale);
        let file = |ending: &str| folder.join("gallery").join(format!("{name}{ending}"));
        if entry.channel == ChannelKind::Sms {
            private_files::write(&file(".txt"), &rendered.text)?;
            index.push_str(&text_message(entry));
            continue;
        }
        let html = with_images(&entry.message);
        private_files::write(&file(".html"), &html)?;
        // A browser shows one colour scheme at a time, so dark mode has a file of its own.
        let dark = html.replace("(prefers-color-scheme: dark)", "all");
        private_files::write(&file(".dark.html"), dark)?;
        private_files::write(&file(".txt"), &rendered.text)?;
        let mail = sender.compose(&entry.message).map_err(anyhow::Error::msg)?;
        private_files::write(&file(".eml"), &mail.text)?;
        private_files::write(
            &file(".page.html"),
            page(&name, entry, mail.text.as_bytes(), reload),
        )?;
        let (subject, title) = (html_escape(&rendered.subject), html_escape(&entry.title));
        // Writing to a String can't fail.
        let _ = writeln!(
            index,
            "<article><header><h2><a href=\"gallery/{name}.page.html\">{subject}</a></h2><p>{title} · {} \
             ({})</p></header><iframe src=\"gallery/{name}.html\" title=\"{subject}\" sandbox \
             loading=\"lazy\"></iframe></article>",
            template.name, template.locale
        );
    }
    index.push_str("</main></body></html>\n");
    let path = folder.join("index.html");
    private_files::write(&path, index)?;
    Ok(path)
}

fn head(heading: &str, reload: bool) -> String {
    let heading = html_escape(heading);
    let reload = if reload { "<meta http-equiv=\"refresh\" content=\"2\">" } else { "" };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{reload}<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{heading}</title>\n<style>{STYLE}</style></head>\
         <body>\n<h1>{heading}</h1>\n"
    )
}

/// Text messages are short, so they have no page of their own.
fn text_message(entry: &GalleryMessage) -> String {
    let Rendered { text, template, .. } = &entry.message.rendered;
    let text = text.trim();
    format!(
        "<article><header><h2>Text message, segments: {}</h2><p>{} · {} ({})</p></header><blockquote>{}\
         </blockquote></article>\n",
        sms::segments(text),
        html_escape(&entry.title),
        template.name,
        template.locale,
        html_escape(text)
    )
}

/// One mail in every view.
fn page(name: &str, entry: &GalleryMessage, raw: &[u8], reload: bool) -> String {
    let rendered = &entry.message.rendered;
    let mut page = head(&rendered.subject, reload);
    let _ = writeln!(
        page,
        "<p>{} · {} ({}, version {:.12}) · <a href=\"{name}.eml\">eml</a> · <a href=\"../index.html\">all mails</a></p>\n<div class=\"views\">",
        html_escape(&entry.title),
        rendered.template.name,
        rendered.template.locale,
        rendered.template.version,
    );
    for (scheme, file) in [("light", ".html"), ("dark", ".dark.html")] {
        for (device, width) in WIDTHS {
            let _ = writeln!(
                page,
                "<figure><figcaption>{device}, {scheme}</figcaption><iframe src=\"{name}{file}\" width=\"{width}\" \
                 title=\"{device}, {scheme}\" sandbox></iframe></figure>"
            );
        }
    }
    let raw = String::from_utf8_lossy(raw);
    let headers = raw.split("\r\n\r\n").next().unwrap_or_default();
    let _ = writeln!(
        page,
        "</div>\n<h2>Text part</h2>\n<pre>{}</pre>\n<h2>Headers</h2>\n<pre>{}</pre>\n</body></html>",
        html_escape(&rendered.text),
        html_escape(headers)
    );
    page
}

/// The HTML part with its inline image as a data URL.
fn with_images(message: &Outgoing) -> String {
    let html = &message.rendered.html;
    let Some(qr) = &message.extras.qr else { return html.clone() };
    let data = format!("data:image/png;base64,{}", STANDARD.encode(&qr.png));
    html.replace(&format!("cid:{}", qr.name), &data)
}
