//! `usher render --send-to`: one mail of an event as it would go out, to an address of one's own.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::output::print;
use crate::{
    app::{
        Telemetry,
        channels::email,
        configuration::{Configuration, open_audit, open_ledger},
    },
    audit::store::actions::Action,
    channel::{Outcome, Outgoing, SlotRequest},
    failure::Failure,
    metrics::Metrics,
    supervisor::Supervisor,
};

/// How long the mail server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the mail with a marked subject and a Message-ID of its own, and records that as an action of `by`. No ledger
/// and no record of a delivery know of it.
pub(super) async fn send(
    loaded: &Configuration,
    route: &str,
    mail: Outgoing,
    to: &str,
    by: &str,
) -> Result<(), Failure> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut mail = Outgoing {
        recipient: to.to_owned(),
        message_id: format!("<test-{id}@{}>", loaded.sender.domain()),
        ..mail
    };
    mail.rendered.subject = format!("[TEST] {}", mail.rendered.subject);
    let supervisor = Supervisor::default();
    let ledger = Arc::new(open_ledger(&loaded.settings, &supervisor)?);
    let audit = open_audit(&loaded.settings, Metrics::default(), &supervisor).await?;
    let channel = email(loaded, &Telemetry::default(), ledger)?;
    channel.check_recipient(to).map_err(Failure::data)?;
    let brand = mail.rendered.brand.as_ref();
    let brand = brand.and_then(|name| loaded.routing.brands().get(name));
    let relays = brand.map(|brand| brand.relays.as_slice()).unwrap_or_default();
    let slot = async |except: &[String]| {
        let request = SlotRequest { route, relays, except, ..SlotRequest::default() };
        timeout(PATIENCE, channel.ready(request)).await.map_err(|_| {
            Failure::unavailable(anyhow::anyhow!("the mail server was not ready within a minute"))
        })
    };
    let mut ready = slot(&[]).await?;
    let action = Action {
        by: by.to_owned(),
        action: "test",
        target: format!("mail test-{id} of route {route}"),
        reason: String::new(),
    };
    // Recorded first, so that no test goes out without a trace.
    audit.record_action(&action).await.map_err(Failure::unavailable)?;
    let mut not_taken_by = Vec::new();
    let outcome = loop {
        let relay = ready.relay().map(ToOwned::to_owned);
        match ready.send(&mail, Box::pin(async { true })).await.outcome {
            Outcome::Elsewhere => not_taken_by.extend(relay),
            Outcome::Withheld => {}
            outcome => break outcome,
        }
        ready = slot(&not_taken_by).await?;
    };
    channel.close().await;
    match outcome {
        Outcome::Sent(reply) => {
            let said = reply.map(|reply| format!(": {} {}", reply.code, reply.reply));
            print(format!("sent to {to} as a test{}", said.unwrap_or_default()).as_str());
            Ok(())
        }
        Outcome::Simulated => {
            print("simulated: no mail server is set, nothing was sent");
            Ok(())
        }
        Outcome::Impossible(reason) | Outcome::Unreachable(reason) => Err(Failure::data(reason)),
        Outcome::Refused { reply, .. } => {
            Err(Failure::data(format!("refused: {} {}", reply.code, reply.reply)))
        }
        Outcome::Unavailable(reason, _)
        | Outcome::Interrupted(reason, _)
        | Outcome::Unknown(reason, _) => Err(Failure::unavailable(anyhow::anyhow!(reason))),
        // They were tried again.
        Outcome::Elsewhere | Outcome::Withheld => Ok(()),
    }
}
