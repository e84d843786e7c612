//! The `[[relay]]` tables of the settings file: mail servers beside that of `SMTP_*`.

use super::{
    Fault, Report, Warning,
    email::{check_server, smtp},
    names::{relay_key, relay_names},
    settings::Relay,
    validate::Reader,
    values as v,
};

/// The name of the relay that the `SMTP_*` settings are.
pub(super) const DEFAULT: &str = "default";

/// Longest name.
const MAX_NAME: usize = 40;

/// The usable tables, as they stand in the file. Faults name the relay and the key of its table.
pub(super) fn relays(r: &mut Reader) -> Vec<Relay> {
    let mut relays: Vec<Relay> = Vec::new();
    for (position, table) in (1..).zip(&r.layers.relays) {
        let mut report = Report::default();
        let own = &mut Reader { layers: &table.layers, report: &mut report };
        let relay = relay(own, position);
        if relays.iter().any(|other| relay.as_ref().is_some_and(|one| one.name == other.name)) {
            own.fault("RELAY_NAME", "is the name of another relay");
        }
        relays.extend(relay);
        r.report.append_of_relay(&table.label, report);
    }
    relays
}

fn relay(r: &mut Reader, position: u16) -> Option<Relay> {
    let name = r.read("RELAY_NAME", name);
    let order = r.read("RELAY_ORDER", v::number(0..=1000));
    let weight = r.read("RELAY_WEIGHT", v::number(1..=1000));
    let routes = r.value("RELAY_ROUTES", v::list(v::line));
    let username = r.read("SMTP_USERNAME", v::line);
    let smtp = smtp(r, username);
    check_server(r, smtp.as_ref());
    for (needed, or) in [("RELAY_NAME", ""), ("SMTP_SERVER", "SMTP_OAUTH_PROVIDER")] {
        if !r.is_set(needed) && (or.is_empty() || !r.is_set(or)) {
            r.fault(needed, "must be set");
        }
    }
    // The default is that of all mail.
    let from_name = if r.is_set("FROM_NAME") { r.read("FROM_NAME", v::line) } else { None };
    let from_address = r.read("FROM_EMAIL", v::mail_address);
    Some(Relay {
        name: name?,
        order: order.unwrap_or(position),
        weight: weight.unwrap_or(1),
        routes,
        from_address,
        from_name,
        bounce_address: r.read("BOUNCE_ADDRESS", v::mail_address),
        smtp: smtp?,
    })
}

/// It stands in metrics, records and the log.
fn name(text: &str) -> v::Parsed<String> {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(is_letter) {
        return Err(format!("must be 1 to {MAX_NAME} of a-z, 0-9, - and _"));
    }
    if text == DEFAULT {
        return Err(format!("must not be {DEFAULT}, which is the relay of SMTP_SERVER"));
    }
    Ok(text.to_owned())
}

impl Report {
    /// Takes the faults and warnings of one relay, told by the keys that its table has.
    pub(super) fn append_of_relay(&mut self, label: &str, report: Self) {
        let place = |setting: &str| format!("relay {label}, {}", relay_key(setting));
        let told = |reason: String| {
            relay_names()
                .map(|name| name.canonical)
                .fold(reason, |text, name| text.replace(name, &relay_key(name)))
        };
        self.faults.extend(report.faults.into_iter().map(|fault| Fault {
            setting: place(&fault.setting),
            reason: told(fault.reason),
            ..fault
        }));
        self.warnings.extend(report.warnings.into_iter().map(|warning| Warning {
            setting: place(&warning.setting),
            reason: told(warning.reason),
        }));
    }
}
