//! `usher receipts`: reports about mail that was sent.

use std::{
    io::{Read, copy, sink, stdin},
    path::Path,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{print, print_err};
use crate::{
    app::configuration,
    failure::{EXIT_TEMPORARY, Failure},
    logging,
    metrics::Metrics,
    receipts::{Intake, MAX_BYTES, Taken},
    routing::Identity,
    supervisor::Supervisor,
};

#[derive(Debug, Subcommand)]
pub(super) enum ReceiptsCommand {
    /// Read one report from standard input: a bounce, a notice of delivery or a complaint.
    Ingest(IngestArgs),
}

#[derive(Debug, Args)]
pub(super) struct IngestArgs {
    /// Address that the report came to, if its headers do not say (postfix: ${original_recipient}).
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: Option<&Path>,
    command: ReceiptsCommand,
) -> Result<ExitCode, Failure> {
    let ReceiptsCommand::Ingest(args) = command;
    // Whatever fails here, the mail server shall keep the report and try again: other codes would have it
    // bounce the bounce.
    match ingest(config, &args).await {
        Ok(code) => Ok(code),
        Err(failure) => Err(Failure::new(EXIT_TEMPORARY, failure.error)),
    }
}

async fn ingest(config: Option<&Path>, args: &IngestArgs) -> Result<ExitCode, Failure> {
    let settings = configuration::settings(config)?;
    logging::init_quiet(settings.log_format)?;
    let mut raw = Vec::new();
    // Part of the message, as some delivery agents do it by themselves.
    if let Some(recipient) = &args.recipient {
        raw.extend_from_slice(format!("X-Original-To: {recipient}\r\n").as_bytes());
    }
    let mut input = stdin().lock();
    input.by_ref().take(MAX_BYTES as u64).read_to_end(&mut raw)?;
    // A pipe that is closed too early is a failure to those who write to it.
    copy(&mut input, &mut sink())?;
    drop(input);
    let supervisor = Supervisor::default();
    let audit = configuration::open_audit(&settings, Metrics::default(), &supervisor).await?;
    let identity = Identity::new(settings.pepper.expose());
    let intake = Intake {
        audit: &audit,
        identity: &identity,
        retention: settings.audit_retention,
        suppress_after: settings.suppress_after,
    };
    let taken = intake.take(&raw).await.map_err(Failure::unavailable)?;
    report(&taken, args.json);
    Ok(match taken {
        Taken::Early(_) => ExitCode::from(EXIT_TEMPORARY),
        _ => ExitCode::SUCCESS,
    })
}

fn report(taken: &Taken, as_json: bool) {
    let (became, receipt, reason) = match taken {
        Taken::Recorded(receipt) => ("recorded", Some(receipt), None),
        Taken::Known(receipt) => ("known", Some(receipt), None),
        Taken::Ignored(ignored) => ("ignored", None, Some(ignored.to_string())),
        Taken::Early(delivery) => {
            print_err(&format!("there is no record of delivery {delivery} yet; try again"));
            return;
        }
    };
    if as_json {
        print(&json!({"became": became, "receipt": receipt, "reason": reason}).to_string());
        return;
    }
    match (receipt, reason) {
        (Some(receipt), _) => {
            print(&format!("{became}: delivery {} {}", receipt.delivery_id, receipt.summary()));
        }
        (None, reason) => print(&format!("{became}: {}", reason.unwrap_or_default())),
    }
}
