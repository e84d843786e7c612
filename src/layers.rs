//! Holds every path in the code against the tables of `lib.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const CRATE_DOCS: &str = include_str!("lib.rs");

/// The rows of the table under this heading of the crate docs: a name and the names on its right.
fn table(heading: &str) -> Vec<(&'static str, BTreeSet<&'static str>)> {
    let (_, section) = CRATE_DOCS.split_once(heading).expect("the heading");
    let table = section.split("//! ```").nth(1).expect("a table");
    let rows = table.lines().skip(1).map(|line| line.trim_start_matches("//!").split_whitespace());
    rows.filter_map(|mut row| Some((row.next()?, row.collect()))).collect()
}

struct File {
    path: String,
    /// Its module, such as `broker/amqp/acks`.
    place: String,
    /// Without its tests.
    code: String,
}

fn files(folder: &Path, place: &str, found: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a name");
        if name == "tests" {
            continue;
        }
        if entry.path().is_dir() {
            files(&entry.path(), &format!("{place}{name}/"), found);
        } else if let Some(module) = name.strip_suffix(".rs") {
            let source = fs::read_to_string(entry.path()).expect("a file");
            let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            found.push(File {
                path: format!("src/{place}{name}"),
                place: format!("{place}{module}").trim_end_matches("/mod").to_owned(),
                code: code.to_owned(),
            });
        }
    }
}

/// Identifiers, `::` and single other characters, each with its line. Comments are left out.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let mut rest = line.split("//").next().unwrap_or_default().trim_start();
        while let Some(first) = rest.chars().next() {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let length = match rest.find(|c| !is_name(c)) {
                Some(0) if rest.starts_with("::") => 2,
                Some(0) => first.len_utf8(),
                Some(end) => end,
                None => rest.len(),
            };
            tokens.push((number, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Every path in the code with its line; `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths<'c>(tokens: &[(usize, &'c str)]) -> Vec<(usize, Vec<&'c str>)> {
    let mut found = Vec::new();
    // The path before each open brace; empty where the brace opens a block.
    let mut prefixes: Vec<Vec<&str>> = vec![Vec::new()];
    let mut path: Vec<&str> = Vec::new();
    for pair in tokens.windows(2) {
        let ((line, token), (_, next)) = (pair[0], pair[1]);
        let goes_on = next == "::";
        match token {
            "::" => {}
            "{" => prefixes.push(std::mem::take(&mut path)),
            "}" => drop(prefixes.pop()),
            name => {
                path.push(name);
                if !goes_on {
                    let whole = prefixes.iter().flatten().chain(&path).copied().collect();
                    found.push((line, whole));
                    path.clear();
                }
            }
        }
    }
    found
}

#[test]
fn modules_use_only_what_the_crate_docs_allow() {
    let (allowed, external) = (table("# What may use what"), table("# Who knows which service"));
    let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    for (number, (name, uses)) in allowed.iter().enumerate() {
        let above = |used: &&str| names[..number].contains(used);
        assert!(uses.iter().all(above), "{name} may only use what stands above it in the table");
    }
    let allowed: BTreeMap<&str, BTreeSet<&str>> = allowed.into_iter().collect();
    let mut all = Vec::new();
    files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "", &mut all);
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for File { path: file, place, code } in &all {
        let module = place.split('/').next().unwrap_or_default();
        if ["lib", "main", "layers"].contains(&module) {
            continue;
        }
        let Some(uses) = allowed.get(module) else {
            faults.push(format!("{file}: {module} is missing in the table"));
            continue;
        };
        let depth = place.split('/').count();
        for (line, path) in paths(&tokens(code)) {
            let up = path.iter().take_while(|segment| **segment == "super").count();
            let target = match path[0] {
                "crate" => path.get(1),
                "super" if up == depth => path.get(up),
                _ => None,
            };
            if let Some(target) = target.filter(|target| allowed.contains_key(*target))
                && *target != module
            {
                used.insert((module, *target));
                if !uses.contains(target) {
                    faults.push(format!("{file}:{line}: {module} may not use {target}"));
                }
            }
            for (service, places) in &external {
                let may = |allowed: &&str| {
                    place
                        .strip_prefix(*allowed)
                        .is_some_and(|it| it.is_empty() || it.starts_with('/'))
                };
                if path.len() > 1 && path[0] == *service && !places.iter().any(may) {
                    faults.push(format!("{file}:{line}: only {places:?} may use {service}"));
                }
            }
        }
    }
    for (module, uses) in &allowed {
        let unused = uses.iter().filter(|target| !used.contains(&(*module, **target)));
        faults.extend(unused.map(|target| format!("{module} does not use {target}")));
    }
    assert!(faults.is_empty(), "against the tables of src/lib.rs:\n{}", faults.join("\n"));
}

#[test]
fn paths_are_read_with_their_braces_and_lines() {
    let code = "use crate::{\n    audit::{Record, store::MongoAudit}, // redis::x\n};\nlet x = redis::cmd(y);";
    let found = paths(&tokens(code));
    let found: Vec<_> = found.iter().map(|(line, path)| (*line, path.join("::"))).collect();
    for expected in
        [(2, "crate::audit::Record"), (2, "crate::audit::store::MongoAudit"), (4, "redis::cmd")]
    {
        assert!(found.iter().any(|(line, path)| (*line, path.as_str()) == expected), "{found:?}");
    }
    assert!(!found.iter().any(|(_, path)| path == "redis::x"));
}
