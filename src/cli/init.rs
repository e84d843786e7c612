//! `usher init`: a folder with settings, a route and a template of one's own to start from.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use rust_embed::RustEmbed;

use super::output::print;
use crate::{
    failure::{EXIT_DATA, Failure},
    template::source,
};

const SETTINGS: &str = include_str!("../../config/starter/usher.toml");
const ROUTES: &str = include_str!("../../config/starter/routes.toml");
const SAMPLE: &str = include_str!("../../config/starter/sample.json");
const COMPOSE: &str = include_str!("../../docker-compose.yml");

#[derive(RustEmbed)]
#[folder = "examples/order_shipped/templates/order_shipped/"]
struct Template;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The folder; it is created.
    dir: PathBuf,
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode, Failure> {
    let files = files()?;
    let there: Vec<&str> = files
        .iter()
        .map(|(path, _)| path.as_str())
        .filter(|path| args.dir.join(path).exists())
        .collect();
    if !there.is_empty() {
        let (dir, there) = (args.dir.display(), there.join(", "));
        return Err(Failure::new(
            EXIT_DATA,
            anyhow::anyhow!("{dir} has these files already, and nothing was written: {there}"),
        ));
    }
    for (path, text) in files {
        write(&args.dir.join(path), &text)?;
    }
    let dir = args.dir.display();
    print(&format!(
        "{dir} has your settings (usher.toml), a route (routes.toml) and a template (templates/order_shipped).\n\
         \n\
         \x20   cd {dir}\n\
         \x20   usher check --offline                   # is everything right?\n\
         \x20   usher render --all --out mail           # look at mail/index.html\n\
         \x20   usher run --embedded <templates/order_shipped/samples/shipped.json\n\
         \n\
         compose.yaml starts usher with RabbitMQ, Redis, MongoDB and a mailbox (Mailpit)."
    ));
    Ok(ExitCode::SUCCESS)
}

/// The files by their paths in the folder.
fn files() -> anyhow::Result<Vec<(String, String)>> {
    let mut files = vec![
        ("usher.toml".to_owned(), SETTINGS.to_owned()),
        ("routes.toml".to_owned(), ROUTES.to_owned()),
        ("compose.yaml".to_owned(), compose()),
        ("templates/order_shipped/samples/shipped.json".to_owned(), SAMPLE.to_owned()),
    ];
    let languages = ["en.", "es."];
    for name in Template::iter().filter(|name| languages.iter().any(|it| name.starts_with(it))) {
        let Some(file) = Template::get(&name) else { continue };
        let text = String::from_utf8(file.data.into_owned())?;
        files.push((format!("templates/order_shipped/{name}"), text));
    }
    let shared = source::read(None)?.into_iter().filter(|(path, _)| path.starts_with("_shared/"));
    files.extend(shared.map(|(path, text)| (format!("templates/{path}"), text)));
    Ok(files)
}

/// The repository's compose file, with the folder's settings in the container.
fn compose() -> String {
    let folder = "    image: usher  # docker build -t usher, in usher's repository\n    \
                  working_dir: /etc/usher\n    volumes:\n      - ./:/etc/usher:ro\n";
    COMPOSE.replace("    build: .\n", folder).replace("up --build", "up")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compose_file_has_the_folder_in_place_of_a_build() {
        let text = compose();
        assert!(text.contains("- ./:/etc/usher:ro") && !text.contains("build: ."), "{text}");
    }
}
