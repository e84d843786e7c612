//! A page with all mails of the demo.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use handlebars::html_escape;

use crate::template::Rendered;

/// One mail of the demo.
pub(super) struct Mail {
    pub(super) recipient: String,
    pub(super) rendered: Rendered,
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>usher demo: the mails</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1280px; padding: 24px; }
  main { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 24px; }
  article { border: 1px solid #8886; border-radius: 10px; overflow: hidden; }
  header { padding: 12px 16px; }
  h2 { font-size: 16px; margin: 0 0 4px; }
  p { margin: 0; font-size: 13px; opacity: .8; }
  iframe { border: 0; width: 100%; height: 560px; background: #fff; }
</style></head><body>
<h1>usher demo: the mails</h1>
<main>
"#;

/// Writes the page and a file for each mail; gives the page's path.
pub(super) fn write(folder: &Path, mails: &[Mail]) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder.join("gallery"))?;
    let mut page = HEAD.to_owned();
    let mut sorted: Vec<&Mail> = mails.iter().collect();
    sorted.sort_by_key(|mail| {
        (&mail.rendered.template.name, &mail.rendered.template.locale, &mail.rendered.subject)
    });
    for (number, mail) in sorted.into_iter().enumerate() {
        let Rendered { subject, html, text, template, .. } = &mail.rendered;
        let name = format!("gallery/{number:02}-{}-{}", template.name, template.locale);
        std::fs::write(folder.join(format!("{name}.html")), html)?;
        std::fs::write(folder.join(format!("{name}.txt")), text)?;
        let (subject, to) = (html_escape(subject), html_escape(&mail.recipient));
        // Writing to a String can't fail.
        let _ = writeln!(
            page,
            "<article><header><h2>{subject}</h2><p>to {to} · {} ({}) · <a href=\"{name}.html\">html</a> · \
             <a href=\"{name}.txt\">text</a></p></header><iframe src=\"{name}.html\" title=\"{subject}\" \
             sandbox loading=\"lazy\"></iframe></article>",
            template.name, template.locale
        );
    }
    page.push_str("</main></body></html>\n");
    let index = folder.join("index.html");
    std::fs::write(&index, page)?;
    Ok(index)
}
