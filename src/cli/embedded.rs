//! `--embedded`: commands that read the file of the embedded mode instead of the services.

use std::path::PathBuf;

use clap::Args;

use crate::{
    app::embedded::{Embedded, open_existing},
    config::Settings,
    failure::Failure,
};

#[derive(Debug, Default, Args)]
pub(super) struct EmbeddedArgs {
    /// Folder of the embedded mode, whose file is read instead of the services.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "usher-data")]
    embedded: Option<PathBuf>,
}

impl EmbeddedArgs {
    /// The stores in the folder, if one is named.
    pub(super) fn open(&self, settings: &Settings) -> Result<Option<Embedded>, Failure> {
        self.embedded.as_deref().map(|folder| open_existing(folder, settings)).transpose()
    }
}
