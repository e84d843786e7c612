//! Raw values: reads the environment, the settings file and the defaults, and picks a value for each setting.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{
    Report,
    names::{Kind, NAMES, Name, relay_key, relay_names},
    settings::{RawSettings, Secret, read_secret},
};

const DEFAULTS: &str = include_str!("../../config/defaults.toml");

/// Source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    NotSet,
    /// The embedded `config/defaults.toml`.
    Default,
    /// An environment variable.
    Environment(String),
    /// A key of the settings file.
    File {
        path: PathBuf,
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSet => f.write_str("not set"),
            Self::Default => f.write_str("default"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { path, key } => write!(f, "file {}, key {key}", path.display()),
        }
    }
}

/// Environment variables. They are passed in, so that tests don't change those of the process. No
/// `Debug`, because it holds secrets.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// The variables of this process. Bytes that are not UTF-8 become replacement characters, which
    /// [`load`](super::load) refuses.
    pub fn from_process() -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Raw value of a setting.
#[derive(Debug)]
pub(super) struct Found {
    /// `None` if the setting is set but unusable. The fault is reported already, so nothing may be
    /// concluded from the absence of a value.
    pub(super) text: Option<String>,
    pub(super) origin: Origin,
    /// The file that the text is from, if it is a secret by file.
    pub(super) file: Option<PathBuf>,
}

/// Raw values of one layer by upper-case name.
type Layer = HashMap<String, Found>;

/// The raw value that is used for each setting, by canonical name.
pub(super) struct Layers {
    winners: HashMap<&'static str, Found>,
    /// The `[[relay]]` tables of the settings file.
    pub(super) relays: Vec<RelayLayers>,
}

/// The raw values of a `[[relay]]` table over the defaults.
pub(super) struct RelayLayers {
    /// Its name, or its number if it has none.
    pub(super) label: String,
    pub(super) layers: Layers,
}

impl Layers {
    pub(super) fn read(file: Option<&Path>, env: &Environment, report: &mut Report) -> Self {
        let mut relays = Vec::new();
        warn_of_slips(env, report);
        let mut layers = vec![environment_layer(env)];
        layers.extend(file.map(|path| file_layer(path, &mut relays, report)));
        layers.push(defaults_layer(report));
        let used = winners(NAMES, layers, report);
        let relays = relays.into_iter().map(|(label, layer)| {
            let layers = vec![layer, defaults_layer(report)];
            let mut own = Report::default();
            let winners = winners(relay_names(), layers, &mut own);
            report.append_of_relay(&label, own);
            RelayLayers { label, layers: Self { winners, relays: Vec::new() } }
        });
        Self { relays: relays.collect(), winners: used }
    }

    /// Each value, to tell later which have changed.
    pub(super) fn raw(&self) -> RawSettings {
        let of_relays = self.relays.iter().flat_map(|RelayLayers { label, layers }| {
            let name = move |canonical| format!("relay {label}, {}", relay_key(canonical));
            layers
                .winners
                .iter()
                .map(move |(canonical, found)| (name(canonical), *canonical, found))
        });
        let own = self.winners.iter();
        let own = own.map(|(canonical, found)| ((*canonical).to_owned(), *canonical, found));
        let values = own.chain(of_relays).map(|(name, canonical, found)| {
            let value = match &found.file {
                // Read again at each login.
                Some(file) if canonical.starts_with("SMTP_") => file.display().to_string(),
                _ => found.text.clone().unwrap_or_default(),
            };
            (name, Secret::new(value))
        });
        RawSettings(values.collect())
    }

    pub(super) fn get(&self, canonical: &str) -> Option<&Found> {
        debug_assert!(
            NAMES.iter().chain(relay_names()).any(|name| name.canonical == canonical),
            "{canonical} is not listed"
        );
        self.winners.get(canonical)
    }
}

/// The value that is used for each of these settings; the first layers come first.
fn winners(
    names: impl IntoIterator<Item = &'static Name>,
    mut layers: Vec<Layer>,
    report: &mut Report,
) -> HashMap<&'static str, Found> {
    let mut winners = HashMap::new();
    for name in names {
        // Lower layers are not read, so the file of an overridden secret need not exist.
        let winner = layers.iter_mut().find_map(|layer| resolve(name, layer, report));
        winners.extend(winner.map(|found| (name.canonical, found)));
    }
    winners
}

/// The value of a setting in one layer, under any of its names.
fn resolve(name: &Name, layer: &mut Layer, report: &mut Report) -> Option<Found> {
    let candidates: Vec<Found> =
        name.all().filter_map(|spelling| take(name, spelling, layer, report)).collect();
    let mut candidates = candidates.into_iter();
    let winner = candidates.next()?;
    for loser in candidates.filter(|loser| loser.text != winner.text) {
        let reason =
            format!("{} is used, {} has another value and is ignored", winner.origin, loser.origin);
        report.warn(name.canonical, reason);
    }
    Some(winner)
}

/// The value under one spelling, or in the file that `<spelling>_FILE` names. An empty value counts as
/// unset, because compose files pass empty strings, unless the setting may be empty.
fn take(name: &Name, spelling: &str, layer: &mut Layer, report: &mut Report) -> Option<Found> {
    let mut nonempty = |key: &str| {
        let found = layer.remove(key)?;
        let empty = found.text.as_deref().is_some_and(|text| text.trim().is_empty());
        (!empty || name.kind == Kind::MayBeEmpty).then_some(found)
    };
    let direct = nonempty(spelling);
    if name.kind != Kind::Secret {
        return direct;
    }
    let Some(mut by_file) = nonempty(&format!("{spelling}_FILE")) else {
        return direct;
    };
    let text = match (&direct, by_file.text.take()) {
        (Some(direct), _) => Err(format!("is also set by {}", direct.origin)),
        (None, Some(path)) => {
            by_file.file = Some(PathBuf::from(&path));
            read_secret(Path::new(&path))
        }
        (None, None) => return Some(by_file),
    };
    by_file.text =
        text.map_err(|reason| report.fault(name.canonical, &by_file.origin, reason, None)).ok();
    Some(by_file)
}

fn environment_layer(env: &Environment) -> Layer {
    let found = |(name, value): (&String, &String)| {
        (
            name.clone(),
            Found {
                text: Some(value.clone()),
                origin: Origin::Environment(name.clone()),
                file: None,
            },
        )
    };
    env.0.iter().map(found).collect()
}

/// The environment has much that is not for usher, so only names that nearly are a setting's count.
fn warn_of_slips(env: &Environment, report: &mut Report) {
    let keys = file_keys();
    for variable in env.0.keys().filter(|variable| variable.contains('_')) {
        let key = variable.to_ascii_lowercase();
        if let Some(meant) = nearest(&key, &keys).filter(|meant| *meant != key) {
            let meant = meant.to_ascii_uppercase();
            report.warn(variable, format!("is not a setting; is {meant} meant?"));
        }
    }
}

/// The file's settings; its `[[relay]]` tables go to `relays`.
fn file_layer(path: &Path, relays: &mut Vec<(String, Layer)>, report: &mut Report) -> Layer {
    let origin = |key: &str| Origin::File { path: path.to_owned(), key: key.to_owned() };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let Some(mut table) = parse(&text, path, report) else { return Layer::new() };
            match table.remove("relay") {
                None => {}
                Some(toml::Value::Array(tables)) if tables.iter().all(toml::Value::is_table) => {
                    let tables = tables.into_iter().filter_map(|table| table.try_into().ok());
                    for (number, table) in (1..).zip(tables) {
                        relays.push(relay_layer(number, table, origin, report));
                    }
                }
                Some(_) => report.fault("relay", origin("relay"), "must be [[relay]] tables", None),
            }
            table_layer(table, file_keys, origin, "", report)
        }
        Err(error) => {
            report.fault("settings file", path.display(), format!("cannot be read: {error}"), None);
            Layer::new()
        }
    }
}

fn defaults_layer(report: &mut Report) -> Layer {
    let table = parse(DEFAULTS, Path::new("config/defaults.toml"), report).unwrap_or_default();
    table_layer(table, file_keys, |_| Origin::Default, "", report)
}

fn relay_layer(
    number: usize,
    table: toml::Table,
    origin: impl Fn(&str) -> Origin,
    report: &mut Report,
) -> (String, Layer) {
    let name = table.get("name").and_then(toml::Value::as_str);
    let label = name.map_or_else(|| format!("#{number}"), ToOwned::to_owned);
    let layer = table_layer(table, relay_keys, origin, &format!("relay {label}, "), report);
    (label, layer)
}

fn parse(text: &str, path: &Path, report: &mut Report) -> Option<toml::Table> {
    match toml::from_str(text) {
        Ok(table) => Some(table),
        Err(error) => {
            // Display of the error quotes the line, which may hold a secret.
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let place = format!("{}, line {line}", path.display());
            report.fault("settings file", place, error.message().replace('\n', "; "), None);
            None
        }
    }
}

/// The values of a table with these keys; a fault names the key with `place` before it.
fn table_layer(
    table: toml::Table,
    keys: fn() -> Vec<Key>,
    origin: impl Fn(&str) -> Origin,
    place: &str,
    report: &mut Report,
) -> Layer {
    let keys = keys();
    let mut layer = Layer::new();
    for (key, value) in table {
        let (told, origin) = (format!("{place}{key}"), origin(&key));
        let Some(Key { spelling, kind, .. }) = keys.iter().find(|known| known.key == key) else {
            report.fault(&told, origin, unknown_key(&key, &keys), None);
            continue;
        };
        let printed = value.to_string();
        let text = as_text(value, *kind).map_err(|reason| {
            let printed = (*kind != Kind::Secret).then_some(printed);
            report.fault(&told, &origin, reason, printed);
        });
        let text = text.ok();
        layer.insert(spelling.clone(), Found { text, origin, file: None });
    }
    layer
}

/// A key of a table, and what it is called in the environment.
struct Key {
    key: String,
    spelling: String,
    kind: Kind,
}

impl Key {
    /// The key itself, and that of a file which holds the value.
    fn both(key: String, spelling: &str, kind: Kind) -> impl Iterator<Item = Self> {
        let by_file = (kind == Kind::Secret).then(|| Self {
            key: format!("{key}_file"),
            spelling: format!("{spelling}_FILE"),
            kind: Kind::Plain,
        });
        std::iter::once(Self { key, spelling: spelling.to_owned(), kind }).chain(by_file)
    }
}

/// Keys that the settings file may have.
fn file_keys() -> Vec<Key> {
    let keys = NAMES.iter().flat_map(|name| {
        name.all()
            .flat_map(|spelling| Key::both(spelling.to_ascii_lowercase(), spelling, name.kind))
    });
    keys.collect()
}

/// Keys that a `[[relay]]` table may have.
fn relay_keys() -> Vec<Key> {
    let key = |name: &'static Name| Key::both(relay_key(name.canonical), name.canonical, name.kind);
    relay_names().flat_map(key).collect()
}

/// The value as an environment variable would hold it.
fn as_text(value: toml::Value, kind: Kind) -> Result<String, &'static str> {
    use toml::Value::{Array, Boolean, Integer, String as Text};
    match value {
        Text(text) => Ok(text),
        Integer(number) => Ok(number.to_string()),
        Boolean(truth) => Ok(truth.to_string()),
        Array(items) if kind == Kind::List => {
            let items: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(",")).ok_or("must be an array of strings")
        }
        Array(_) => Err("takes one value, not an array"),
        _ => Err("must be a string, an integer or a boolean"),
    }
}

fn unknown_key(key: &str, keys: &[Key]) -> String {
    match nearest(&key.to_ascii_lowercase(), keys) {
        Some(known) => format!("is not a setting; is `{known}` meant?"),
        None => "is not a setting".to_owned(),
    }
}

/// The key that is at most two slips away; beyond that a suggestion would be a guess.
fn nearest<'a>(key: &str, keys: &'a [Key]) -> Option<&'a str> {
    let distance = |known: &'a Key| (strsim::osa_distance(key, &known.key), &*known.key);
    let (slips, nearest) = keys.iter().map(distance).min()?;
    (slips <= 2).then_some(nearest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Reads `toml` as the settings file, then asks for one setting.
    fn read(toml: &str, vars: &[(&str, &str)], name: &str) -> (Option<String>, String, Report) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        let mut report = Report::default();
        let layers = Layers::read(Some(file.path()), &vars.iter().copied().collect(), &mut report);
        let (text, origin) = match layers.get(name) {
            Some(found) => (found.text.clone(), found.origin.to_string()),
            None => (None, Origin::NotSet.to_string()),
        };
        (text, origin.replace(file.path().to_str().unwrap(), "F"), report)
    }

    fn reasons(report: &Report) -> Vec<&str> {
        report.faults.iter().map(|fault| fault.reason.as_str()).collect()
    }

    #[test]
    fn environment_beats_file_beats_defaults_and_empty_is_unset() {
        let file = "smtp_port = 26";
        let (text, origin, _) = read(file, &[("EMAIL_PORT", "27")], "SMTP_PORT");
        assert_eq!((text.as_deref(), origin.as_str()), (Some("27"), "environment EMAIL_PORT"));
        let (text, origin, _) = read(file, &[("SMTP_PORT", "")], "SMTP_PORT");
        assert_eq!((text.as_deref(), origin.as_str()), (Some("26"), "file F, key smtp_port"));
        let (text, origin, _) = read("", &[], "SMTP_PORT");
        assert_eq!((text.as_deref(), origin.as_str()), (Some("587"), "default"));
    }

    #[test]
    fn differing_aliases_of_one_layer_warn_and_the_canonical_name_wins() {
        let vars = [("SMTP_HOST", "old"), ("SMTP_SERVER", "new"), ("EMAIL_HOST", "new")];
        let (text, _, report) = read("smtp_server = 'other layer'", &vars, "SMTP_SERVER");
        assert_eq!(text.as_deref(), Some("new"));
        let [warning] = report.warnings.as_slice() else { panic!("{:?}", report.warnings) };
        assert!(warning.reason.contains("SMTP_SERVER") && warning.reason.contains("SMTP_HOST"));
    }

    #[test]
    fn a_variable_that_is_nearly_a_setting_warns_without_its_value() {
        let vars = [
            ("SMTP_SEVER", "a"),
            ("REDIS_URI", "redis://:hunter2@a/"),
            ("smtp_server", "a"),
            ("SMTP_SERVER", "b"),
            ("KUBERNETES_PORT", "1"),
            ("LC_ALL", "C"),
        ];
        let (_, _, report) = read("", &vars, "SMTP_SERVER");
        let mut warned: Vec<_> = report.warnings.iter().map(ToString::to_string).collect();
        warned.sort_unstable();
        assert_eq!(
            warned,
            [
                "REDIS_URI: is not a setting; is REDIS_URL meant?",
                "SMTP_SEVER: is not a setting; is SMTP_SERVER meant?",
            ]
        );
    }

    #[test]
    fn faults_of_the_file_never_show_a_secret() {
        let file = "smtp_pasword = 'hunter2'\nredis_password = ['hunter2']\n\
                    prefetch = 1.5\nfrom_name = []\nbogus = 1";
        let (_, _, report) = read(file, &[], "PREFETCH");
        let text = format!("{:?}", report.faults);
        assert_eq!(report.faults.len(), 5, "{text}");
        assert!(text.contains("is `smtp_password` meant?") && text.contains("1.5"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");

        let (_, _, report) = read("prefetch = 1\nsmtp_password = 'hunter2", &[], "PREFETCH");
        let text = format!("{:?}", report.faults);
        assert!(text.contains("line 2") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn secrets_are_read_from_files_once() {
        let mut held = tempfile::NamedTempFile::new().unwrap();
        held.write_all(b" p w \r\n").unwrap();
        let path = held.path().to_str().unwrap();
        let by_file = ("EMAIL_HOST_PASSWORD_FILE", path);
        assert_eq!(read("", &[by_file], "SMTP_PASSWORD").0.as_deref(), Some(" p w "));

        let (text, _, report) = read("", &[by_file, ("EMAIL_HOST_PASSWORD", "x")], "SMTP_PASSWORD");
        assert_eq!((text, reasons(&report).len()), (None, 1));
        let (_, _, report) = read("smtp_password_file = '/no/such'", &[], "SMTP_PASSWORD");
        assert!(reasons(&report)[0].starts_with("cannot read /no/such"));
        let (_, _, report) = read("smtp_password_file = '/no/such'", &[by_file], "SMTP_PASSWORD");
        assert!(report.faults.is_empty(), "what is overridden is not read");
    }
}
