//! `usher audit resend`: sends a recorded mail again, as a new delivery that names the first one.

use std::process::ExitCode;

use clap::Args;
use uuid::Uuid;

use super::{AuditCli, recipient};
use crate::{
    app::configuration::Configuration,
    audit::{
        Audit,
        store::actions::{Action, Correction},
    },
    broker::Broker,
    cli::{
        decision::{DecisionArgs, NOTHING_DONE},
        delivery_ids, open_broker,
        output::{confirm, print},
    },
    delivery::{ResendError, Resender, TemplateOf},
    failure::{EXIT_DATA, Failure},
    text::one_line,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct ResendArgs {
    /// Delivery id, or its beginning.
    delivery: String,
    /// Make it from the template that is in use, or from the text that the first mail was made from.
    #[arg(long, value_enum, default_value_t)]
    template: TemplateOf,
    #[command(flatten)]
    decision: DecisionArgs,
}

impl AuditCli {
    pub(super) async fn resend(
        &self,
        args: &ResendArgs,
        loaded: &Configuration,
    ) -> Result<ExitCode, Failure> {
        let decision = &args.decision;
        let by = decision.by.name()?;
        let delivery = delivery_ids::from_beginning(&*self.reads, &args.delivery).await?;
        let last = self.audit.last(&delivery).await.map_err(Failure::unavailable)?;
        let Some(record) = last else {
            return Err(Failure::data(format!("no record of delivery {delivery}")));
        };
        let (routing, composer) = (&*loaded.routing, &loaded.composer());
        let (audit, identity) = (&*self.audit, &self.identity);
        let resender = Resender { audit, routing, composer, identity };
        let request = Uuid::new_v4().to_string();
        let made = resender.resend(&record, args.template, &request, &decision.reason).await;
        let resend = match made {
            Ok(resend) => resend,
            Err(ResendError::Audit(error)) => return Err(Failure::unavailable(error)),
            Err(ResendError::Refused(reason)) => {
                print(&format!("{delivery} refused: {}", one_line(&reason)));
                return Ok(ExitCode::from(EXIT_DATA));
            }
        };
        let to = recipient(&record);
        print(&one_line(&format!("{delivery} would be sent again to {to}: {}", resend.subject)));
        if !(decision.yes || confirm("send it again?".to_owned()).await) {
            print(NOTHING_DONE);
            return Ok(ExitCode::SUCCESS);
        }
        let new = resend.republish.delivery_headers.delivery_id.clone();
        let action = Action {
            by,
            action: "resend",
            target: delivery.to_string(),
            reason: decision.reason.clone(),
        };
        let correction = Correction { became: Some(new.clone()), ..Correction::default() };
        self.audit.record_correction(&action, correction).await.map_err(Failure::unavailable)?;
        let broker = open_broker(loaded);
        let published = broker.republish(&resend.republish).await;
        broker.close().await;
        published.map_err(Failure::unavailable)?;
        print(&format!("{delivery} is sent again as {new}"));
        Ok(ExitCode::SUCCESS)
    }
}
