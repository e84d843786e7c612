//! Where template files come from: the ones that the binary carries, or a folder.

use std::{collections::BTreeMap, path::Path};

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "templates/"]
struct Embedded;

/// Every file below the templates folder by its path with forward slashes.
pub type Files = BTreeMap<String, String>;

/// The files of `folder`, or the embedded ones.
///
/// # Errors
/// A file can't be read or is not UTF-8.
pub fn read(folder: Option<&Path>) -> anyhow::Result<Files> {
    let mut files = Files::new();
    match folder {
        None => {
            for path in Embedded::iter() {
                let Some(file) = Embedded::get(&path) else { continue };
                files.insert(path.to_string(), String::from_utf8(file.data.into_owned())?);
            }
        }
        Some(folder) => walk(folder, "", &mut files)?,
    }
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, files: &mut Files) -> anyhow::Result<()> {
    let unreadable = |error| anyhow::anyhow!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let text = std::fs::read_to_string(entry.path())
                .map_err(|error| anyhow::anyhow!("{}: {error}", entry.path().display()))?;
            files.insert(path, text);
        }
    }
    Ok(())
}

/// The sample events of a template: (file name, JSON).
pub fn samples<'a>(files: &'a Files, template: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let folder = format!("{template}/samples/");
    let files = files.range(folder.clone()..);
    files
        .take_while(move |(path, _)| path.starts_with(&folder))
        .filter(|(path, _)| path.ends_with(".json"))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}
