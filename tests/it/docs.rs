//! The documentation's links, anchors and paths resolve.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every named path below these folders has to exist.
const FOLDERS: [&str; 10] = [
    "benches/",
    "config/",
    "deploy/",
    "docs/",
    "examples/",
    "fuzz/",
    "page/",
    "src/",
    "templates/",
    "tests/",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository with one of these endings, without built and hidden folders.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![repository().to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let is_ours = !name.starts_with('.') && !["target", "node_modules"].contains(&name);
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The targets of `[…](…)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// The anchors that GitHub gives a page's headings.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut broken = Vec::new();
    for page in files(&[".md"]) {
        let text = fs::read_to_string(&page).expect("a page");
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let leads_there = if anchor.is_empty() {
                target.exists()
            } else {
                let target = fs::read_to_string(&target).unwrap_or_default();
                anchors(&target).iter().any(|known| known == anchor)
            };
            if !leads_there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_path_that_is_named_exists() {
    let mut broken = Vec::new();
    for page in files(&[".md", ".toml", ".yml", ".yaml", ".service"]) {
        let text = fs::read_to_string(&page).expect("a page");
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        let words = text.split(|c: char| !is_part(c)).map(|word| word.trim_end_matches('.'));
        let named = words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
        for path in named.filter(|path| !repository().join(path).exists()) {
            broken.push(format!("{}: {path}", page.display()));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_architecture_page_has_every_crash_point() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).expect("a file");
    let (code, page) = (read("src/crash_points.rs"), read("docs/architecture.md"));
    let names = code.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let missing: Vec<&str> =
        names.filter(|name| !page.contains(&format!("\n| `{name}` |"))).collect();
    assert!(missing.is_empty() && code.contains("\"after_receive\","), "{missing:?}");
}
