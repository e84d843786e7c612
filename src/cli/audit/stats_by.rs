//! `usher audit stats --by`: who sends, who gets mail, and over what it goes.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use console::Style;
use serde_json::json;

use super::{AuditCli, stats::rate};
use crate::{
    audit::store::{
        grouped::{CountBy, Grouped},
        search::Filter,
        statistics::{Group, Outcomes},
    },
    cli::output::{Column, Table, print, print_err, width},
    config::{RateLimit, Settings},
    failure::Failure,
    redaction::mask_address,
};

const HOUR: Duration = Duration::from_secs(3600);
/// Characters of a hash that tell recipients apart.
const SHORT_HASH: usize = 12;

/// How a relay's quota is used.
struct Quota {
    /// Mails of the busiest hour.
    busiest: u64,
    /// Mails that its rate allows in an hour; `None` without a rate.
    allowed: Option<u64>,
}

impl AuditCli {
    pub(super) async fn stats_by(
        &self,
        period: &Filter,
        by: CountBy,
        limit: usize,
        with_addresses: bool,
        is_json: bool,
    ) -> Result<ExitCode, Failure> {
        let counted = self.reads.count_by(period, by, limit).await;
        let mut counted = counted.map_err(Failure::unavailable)?;
        let hashes: Vec<Option<String>> = match by {
            CountBy::Recipient => {
                let hash = |group: &Group| {
                    (!group.name.is_empty()).then(|| self.identity.recipient_hash(&group.name))
                };
                counted.groups.iter().map(hash).collect()
            }
            _ => vec![None; counted.groups.len()],
        };
        if by == CountBy::Recipient && !with_addresses {
            for group in &mut counted.groups {
                group.name = mask_address(&group.name);
            }
        }
        let quotas = match by {
            CountBy::Relay => {
                let busiest =
                    self.reads.busiest_hours(period).await.map_err(Failure::unavailable)?;
                Some(quotas(&self.settings, &busiest))
            }
            _ => None,
        };
        if is_json {
            print_groups_as_json(&counted, &hashes, quotas.as_ref());
        } else {
            print_groups(&counted, &hashes, quotas.as_ref());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// By the relays' names as records have them: none where there is one relay.
fn quotas(settings: &Settings, busiest: &BTreeMap<String, u64>) -> BTreeMap<String, Quota> {
    let relays = settings.email.backend.relays();
    let rate = |name: &str| match relays {
        [only] => only.smtp.rate,
        relays => relays.iter().find(|relay| relay.name == name)?.smtp.rate,
    };
    let quota = |(name, busiest): (&String, &u64)| {
        (name.clone(), Quota { busiest: *busiest, allowed: rate(name).map(in_an_hour) })
    };
    busiest.iter().map(quota).collect()
}

fn in_an_hour(rate: RateLimit) -> u64 {
    (u128::from(rate.count) * HOUR.as_millis() / rate.period.as_millis().max(1)) as u64
}

fn print_groups_as_json(
    counted: &Grouped,
    hashes: &[Option<String>],
    quotas: Option<&BTreeMap<String, Quota>>,
) {
    for (group, hash) in counted.groups.iter().zip(hashes) {
        let outcomes = Outcomes::from_statuses(&group.statuses);
        let mut line = json!({
            "name": group.name, "deliveries": outcomes.total(), "statuses": group.statuses,
            "delivery_rate": outcomes.rate(),
        });
        if let Some(hash) = hash {
            line["recipient_hash"] = hash.as_str().into();
        }
        if let Some(quota) = quotas.and_then(|quotas| quotas.get(&group.name)) {
            line["busiest_hour"] = quota.busiest.into();
            line["allowed_in_an_hour"] = quota.allowed.into();
        }
        print(&line.to_string());
    }
}

fn print_groups(
    counted: &Grouped,
    hashes: &[Option<String>],
    quotas: Option<&BTreeMap<String, Quota>>,
) {
    let mut columns = vec![
        Column::Number("COUNT"),
        Column::Number("OF ALL"),
        Column::Number("FAILED"),
        Column::Number("DELIVERED"),
    ];
    if quotas.is_some() {
        columns.extend([Column::Number("BUSIEST HOUR"), Column::Number("OF ITS RATE")]);
    }
    if hashes.iter().any(Option::is_some) {
        columns.push(Column::Whole("HASH"));
    }
    columns.push(Column::Text("NAME"));
    let with_hashes = hashes.iter().any(Option::is_some);
    let mut table = Table::new(&columns, width());
    let share =
        |part: u64, whole: u64| format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64);
    for (group, hash) in counted.groups.iter().zip(hashes) {
        let outcomes = Outcomes::from_statuses(&group.statuses);
        let mut cells = vec![
            outcomes.total().to_string(),
            share(outcomes.total(), counted.deliveries),
            outcomes.undelivered.to_string(),
            rate(outcomes),
        ];
        if let Some(quotas) = quotas {
            let quota = quotas.get(&group.name);
            cells.push(quota.map_or("-".to_owned(), |quota| quota.busiest.to_string()));
            let used = quota.and_then(|quota| Some(share(quota.busiest, quota.allowed?)));
            cells.push(used.unwrap_or_else(|| "-".to_owned()));
        }
        if with_hashes {
            let short = |hash: &String| hash.chars().take(SHORT_HASH).collect();
            cells.push(hash.as_ref().map_or("-".to_owned(), short));
        }
        cells.push(if group.name.is_empty() { "-".to_owned() } else { group.name.clone() });
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        table.add(&cells, Style::new());
    }
    table.print();
    let (shown, total, deliveries) = (counted.groups.len(), counted.total, counted.deliveries);
    print_err(&format!("{shown} of {total} groups, {deliveries} deliveries"));
}
