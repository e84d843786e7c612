//! `usher templates`: templates in the database, which override the files.

mod activate;
mod list;
mod push;
mod shadow;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{decision::ByArgs, time::past};
use crate::{
    app::configuration::{self, Configuration},
    audit::store::{MongoAudit, actions::Action},
    event::snake_case,
    failure::Failure,
    template::{
        canonical_language,
        store::{Stored, TemplateStore},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum TemplatesCommand {
    /// List templates, and whether each comes from the database or from a file.
    List {
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Print a template: the one in use, or a version.
    Show {
        #[command(flatten)]
        template: TemplateArgs,
        /// Version to print, instead of the template in use.
        #[arg(long, value_name = "N")]
        version: Option<i64>,
    },
    /// Render a template's samples, then store it as a new version.
    Push {
        #[command(flatten)]
        template: TemplateArgs,
        /// Folder with LOCALE.subject.hbs, LOCALE.mjml.hbs or LOCALE.html.hbs, and LOCALE.txt.hbs.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Description, stored with the version.
        #[arg(long)]
        description: Option<String>,
        /// Use the version at once.
        #[arg(long)]
        activate: bool,
        #[command(flatten)]
        by: ByArgs,
    },
    /// Render a candidate for the deliveries of the audit; list what fails, which subjects change, which parts grow.
    Try {
        /// Template name.
        name: String,
        /// Folder with the candidate's files, as for push, in one language or several.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Only deliveries since TIME: 2030-01-31T20:00:00Z, 2030-01-31 (UTC), or a duration before now such as 7d.
        #[arg(long, value_name = "TIME", value_parser = past, default_value = "7d")]
        since: Timestamp,
    },
    /// Use a version from the database.
    Activate {
        #[command(flatten)]
        template: TemplateArgs,
        /// Version to use.
        #[arg(long, value_name = "N")]
        version: i64,
        #[command(flatten)]
        by: ByArgs,
    },
    /// Use the file again.
    Deactivate {
        #[command(flatten)]
        template: TemplateArgs,
        #[command(flatten)]
        by: ByArgs,
    },
    /// List every version of a template.
    History {
        /// Template name.
        name: String,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct TemplateArgs {
    /// Template name, such as booking_confirmation or BookingConfirmation.
    name: String,
    /// Language of the template, such as es or pt-BR.
    #[arg(long, value_name = "LOCALE")]
    locale: String,
}

/// A template in one language.
struct TemplateId {
    /// In snake case.
    name: String,
    language: String,
}

impl TryFrom<&TemplateArgs> for TemplateId {
    type Error = Failure;

    fn try_from(args: &TemplateArgs) -> Result<Self, Failure> {
        let language = canonical_language(&args.locale).ok_or_else(|| {
            Failure::data(format!("{:?} is no language, such as es or pt-BR", args.locale))
        })?;
        Ok(Self { name: snake_case(&args.name), language })
    }
}

impl std::fmt::Display for TemplateId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name, self.language)
    }
}

struct TemplatesCli {
    store: TemplateStore,
    audit: MongoAudit,
    loaded: Configuration,
}

pub(super) async fn run(
    config: Option<&Path>,
    command: TemplatesCommand,
) -> Result<ExitCode, Failure> {
    let (loaded, audit) = configuration::load_with_audit(config).await?;
    let store = TemplateStore::new(audit.database());
    loaded.templates.kept_in(&store);
    let cli = TemplatesCli { store, audit, loaded };
    match command {
        TemplatesCommand::List { json } => cli.list(json).await?,
        TemplatesCommand::Show { template, version } => {
            cli.show(&TemplateId::try_from(&template)?, version).await?;
        }
        TemplatesCommand::Push { template, from, description, activate, by } => {
            let template = TemplateId::try_from(&template)?;
            let version = cli.push(&template, &from, description, &by.name()?).await?;
            if activate {
                cli.activate(&template, version, &by.name()?).await?;
            }
        }
        TemplatesCommand::Try { name, from, since } => {
            cli.try_candidate(&name, &from, since).await?;
        }
        TemplatesCommand::Activate { template, version, by } => {
            cli.activate(&TemplateId::try_from(&template)?, version, &by.name()?).await?;
        }
        TemplatesCommand::Deactivate { template, by } => {
            cli.deactivate(&TemplateId::try_from(&template)?, &by.name()?).await?;
        }
        TemplatesCommand::History { name, json } => cli.history(&name, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl TemplatesCli {
    /// Every version of a template in every language. `name` is in snake case, those in the database
    /// may be in Pascal case.
    async fn versions(&self, name: &str) -> Result<Vec<Stored>, Failure> {
        let all = self.store.all().await.map_err(Failure::unavailable)?;
        Ok(all.into_iter().filter(|stored| snake_case(&stored.name) == name).collect())
    }

    async fn record(
        &self,
        action: &'static str,
        template: &TemplateId,
        version: Option<i64>,
        by: &str,
    ) -> Result<(), Failure> {
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        let action = Action {
            by: by.to_owned(),
            action,
            target: format!("template {template}{version}"),
            reason: String::new(),
        };
        self.audit.record_action(&action).await.map_err(Failure::unavailable)
    }
}

fn unknown_version(version: i64, template: &TemplateId) -> Failure {
    Failure::data(format!("there is no version {version} of {template}"))
}
