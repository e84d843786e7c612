//! `usher templates push`: a new version, which has to render all samples of its template.

use std::path::Path;

use super::{TemplateId, TemplatesCli};
use crate::{
    cli::output::print,
    failure::Failure,
    template::{
        source::{self, Files, Markup, Source},
        store::Stored,
    },
};

impl TemplatesCli {
    /// Returns the number of the new version.
    pub(super) async fn push(
        &self,
        template: &TemplateId,
        from: &Path,
        description: Option<String>,
        by: &str,
    ) -> Result<i64, Failure> {
        let TemplateId { name, language } = template;
        let source = self.read(template, from)?;
        let accepted = self.loaded.templates.accept(name, language, &source, self.loaded.trial());
        accepted.map_err(|faults| Failure::data(faults.join("\n")))?;
        let (text_content, sms_content) = match source.markup {
            Markup::None => (String::new(), Some(source.text)),
            _ => (source.text, None),
        };
        let stored = Stored {
            name: name.clone(),
            locale: Some(language.clone()),
            subject: source.subject,
            html_content: source.html,
            text_content,
            sms_content,
            description,
            is_active: false,
            created_by: Some(by.to_owned()),
            last_modified_by: Some(by.to_owned()),
            ..Stored::default()
        };
        let version = self.store.push(stored).await.map_err(Failure::unavailable)?;
        self.record("push", template, Some(version), by).await?;
        print(&format!("{template} version {version} stored"));
        Ok(version)
    }

    /// Reads a folder as if it were the template's own.
    pub(super) fn read(&self, template: &TemplateId, from: &Path) -> Result<Source, Failure> {
        let TemplateId { name, language } = template;
        let files =
            source::read(Some(from)).map_err(|error| Failure::data(format!("{error:#}")))?;
        let files: Files =
            files.into_iter().map(|(path, text)| (format!("{name}/{path}"), text)).collect();
        let shipped = &self.loaded.files;
        let source = Source::of_files(&files, name, language).and_then(|source| {
            let pushed = files.into_iter().filter(|(path, _)| path.ends_with(".hbs"));
            let all = (**shipped).clone().into_iter().chain(pushed).collect();
            source.for_store(&all, shipped, name, language)
        });
        source.map_err(|faults| Failure::data(faults.join("\n")))
    }
}
