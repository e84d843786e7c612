//! Events as people read and edit them.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{event::read_json, routing::DeliveryId};

/// Pretty JSON; a body that is not JSON as it is.
pub(super) fn readable(body: &[u8]) -> String {
    let pretty = read_json(body).and_then(|value| serde_json::to_string_pretty(&value));
    pretty.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

/// The file in which a delivery's event is edited.
pub(super) fn file_for(delivery: &DeliveryId) -> PathBuf {
    std::env::temp_dir().join(format!("usher-{delivery}.json"))
}

pub(super) fn kept_file_hint(file: &Path) -> String {
    format!("the edited event is kept: --with {}", file.display())
}

/// Opens `$VISUAL` or `$EDITOR` on a file that only this user can read, and returns the edited text.
pub(super) fn edit(file: &Path, text: &str) -> anyhow::Result<String> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut created = created.with_context(|| {
        format!("creating {0}; if it was edited before, use --with {0}", file.display())
    })?;
    created.write_all(text.as_bytes())?;
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os);
    let editor = editor.unwrap_or_else(|| "vi".into());
    // By the shell, because the variable may hold arguments.
    let status = Command::new("sh")
        .args(["-c", r#"eval "$USHER_EDITOR \"\$1\"""#, "sh"])
        .arg(file)
        .env("USHER_EDITOR", &editor)
        .status()
        .with_context(|| format!("starting {}", editor.display()))?;
    if !status.success() {
        std::fs::remove_file(file)?;
        bail!("{} ended with {status}", editor.display());
    }
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}
