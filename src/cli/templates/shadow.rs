//! `usher templates try`: a candidate against what was sent, before anybody gets it.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde_json::Value;

use super::{TemplateId, TemplatesCli};
use crate::{
    audit::{Record, Status, store::search::Filter},
    cli::output::{fit, print},
    delivery::render_again::event,
    event::snake_case,
    failure::Failure,
    routing::{Route, collect_texts},
    template::{Compiled, source},
};

/// Most lines of each list.
const MOST_LINES: usize = 20;
/// Widest subject.
const WIDTH: usize = 60;

/// A part's length in all mails, before and with the candidate, in bytes.
#[derive(Default)]
struct Growth {
    before: usize,
    after: usize,
    /// The most that one mail grows by.
    most: usize,
    mails: u64,
}

impl Growth {
    fn add(&mut self, before: &str, after: &str) {
        self.before += before.len();
        self.after += after.len();
        self.most = self.most.max(after.len().saturating_sub(before.len()));
        self.mails += u64::from(after.len() > before.len());
    }
}

#[derive(Default)]
struct Report {
    rendered: u64,
    failed: u64,
    renamed: u64,
    failures: Vec<String>,
    subjects: Vec<String>,
    html: Growth,
    text: Growth,
    skipped: BTreeMap<&'static str, u64>,
}

/// The text that a route's mails of one version were made from; `None` if it was not kept.
type Earlier = HashMap<(String, String), Option<Arc<Compiled>>>;

impl TemplatesCli {
    /// Renders the files of a folder for every delivery since then, and prints what would be different.
    pub(super) async fn try_candidate(
        &self,
        name: &str,
        from: &Path,
        since: Timestamp,
    ) -> Result<(), Failure> {
        let name = snake_case(name);
        let candidates = self.candidates(&name, from)?;
        let routes = self.loaded.routing.routes().into_iter();
        let routes: Vec<String> =
            routes.filter(|route| route.template == name).map(|route| route.name.clone()).collect();
        let filter = Filter {
            routes: Some(routes),
            statuses: vec![Status::Sent, Status::Simulated],
            since: Some(since),
            ..Filter::default()
        };
        let records = self.audit.records(&filter).await.map_err(Failure::unavailable)?;
        let mut records = std::pin::pin!(records);
        let (mut report, mut earlier) = (Report::default(), Earlier::new());
        while let Some(record) = records.try_next().await.map_err(Failure::unavailable)? {
            self.compare(&record, &candidates, &mut earlier, &mut report).await?;
        }
        report.print(&candidates);
        match report.failed {
            0 => Ok(()),
            failed => Err(Failure::data(format!("{failed} deliveries can't be rendered"))),
        }
    }

    /// Each language of the folder, accepted as `push` would.
    fn candidates(&self, name: &str, from: &Path) -> Result<BTreeMap<String, Compiled>, Failure> {
        let files =
            source::read(Some(from)).map_err(|error| Failure::data(format!("{error:#}")))?;
        let files =
            files.into_iter().map(|(path, text)| (format!("{name}/{path}"), text)).collect();
        let mut candidates = BTreeMap::new();
        for language in source::languages(&files, name) {
            let template = TemplateId { name: name.to_owned(), language: language.to_owned() };
            let source = self.read(&template, from)?;
            let templates = &self.loaded.templates;
            let compiled = templates.accept(name, language, &source, self.loaded.trial());
            let compiled = compiled.map_err(|faults| Failure::data(faults.join("\n")))?;
            candidates.insert(language.to_owned(), compiled);
        }
        match candidates.is_empty() {
            true => Err(Failure::data(format!("{}: no files of a language", from.display()))),
            false => Ok(candidates),
        }
    }

    async fn compare(
        &self,
        record: &Record,
        candidates: &BTreeMap<String, Compiled>,
        earlier: &mut Earlier,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let mut skip = |why| *report.skipped.entry(why).or_default() += 1;
        let route = self.loaded.routing.route(&record.route);
        let (Some(route), Some(template)) = (route, &record.template) else {
            skip("have no template");
            return Ok(());
        };
        if record.erased_at.is_some() {
            skip("were erased");
            return Ok(());
        }
        if is_masked(record, route) {
            skip("have masked values");
            return Ok(());
        }
        let tag = template.locale.as_str();
        let mut tags = std::iter::successors(Some(tag), |tag| Some(tag.rsplit_once('-')?.0));
        let Some(candidate) = tags.find_map(|tag| candidates.get(tag)) else {
            skip("are in other languages");
            return Ok(());
        };
        let (variables, event) = (route.with_defaults(&record.data), event(record, template));
        let templates = &self.loaded.templates;
        report.rendered += 1;
        let new = match templates.render_as(candidate, template, route, &variables, &event) {
            Ok(new) => new,
            Err(error) => {
                report.failed += 1;
                report.failures.push(format!("{}: {error}", record.delivery_id));
                report.failures.truncate(MOST_LINES);
                return Ok(());
            }
        };
        if new.subject != record.subject {
            report.renamed += 1;
            let [before, after] = [&record.subject, &new.subject].map(|it| fit(it, WIDTH));
            report.subjects.push(format!("{}: {before:?} becomes {after:?}", record.delivery_id));
            report.subjects.truncate(MOST_LINES);
        }
        let key = (route.name.clone(), template.version.clone());
        if !earlier.contains_key(&key) {
            let source = templates.text_of_then(template).await;
            let source = source.map_err(Failure::unavailable)?.ok();
            let compiled =
                source.and_then(|source| templates.compile_again(&source, template, route).ok());
            earlier.insert(key.clone(), compiled.map(Arc::new));
        }
        let old = earlier.get(&key).and_then(Option::as_ref).and_then(|compiled| {
            templates.render_as(compiled, template, route, &variables, &event).ok()
        });
        match old {
            Some(old) => {
                report.html.add(&old.html, &new.html);
                report.text.add(&old.text, &new.text);
            }
            None => {
                *report.skipped.entry("have an earlier text that was not kept").or_default() += 1;
            }
        }
        Ok(())
    }
}

/// Whether a value was masked, so that the mail can't be made again.
fn is_masked(record: &Record, route: &Route) -> bool {
    let mut texts = Vec::new();
    record.data.values().for_each(|value: &Value| collect_texts(value, &mut texts));
    texts.iter().any(|text| text.contains("***"))
        || route.secrets.iter().any(|secret| record.data.contains_key(secret))
}

impl Report {
    fn print(&self, candidates: &BTreeMap<String, Compiled>) {
        let languages: Vec<&str> = candidates.keys().map(String::as_str).collect();
        print(format!("{} deliveries rendered ({})", self.rendered, languages.join(", ")).as_str());
        let list = |count: u64, what: &str, lines: &[String]| {
            print(format!("{count} {what}").as_str());
            lines.iter().for_each(|line| print(format!("  {line}").as_str()));
            if count > lines.len() as u64 {
                print(format!("  and {} more", count - lines.len() as u64).as_str());
            }
        };
        list(self.failed, "fail", &self.failures);
        list(self.renamed, "have another subject", &self.subjects);
        for (part, Growth { before, after, most, mails }) in
            [("html", &self.html), ("text", &self.text)]
        {
            print(
                format!("{part}: {mails} grow, by at most {most} bytes; {before} bytes in all become {after}")
                    .as_str(),
            );
        }
        for (why, count) in &self.skipped {
            print(format!("{count} skipped: they {why}").as_str());
        }
    }
}
