//! `usher setup`: creates what the daemon's own user should not be allowed to create in MongoDB.

use std::{path::Path, process::ExitCode};

use super::output::print;
use crate::{
    api::outbox::MongoRequests,
    app::{configuration, services},
    failure::Failure,
    scheduler::mongo::MongoScheduler,
    supervisor::Supervisor,
};

pub(super) async fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let (loaded, audit) = configuration::load_with_audit(config).await?;
    let scheduler = MongoScheduler::new(audit.database(), &Supervisor::default());
    let requests = MongoRequests::new(audit.database(), loaded.settings.audit_retention);
    let correlation = loaded.routing.correlation_names();
    let refused = services::prepare(&audit, &scheduler, &requests, &correlation).await;
    let refused = refused.map_err(Failure::unavailable)?;
    if refused.is_empty() {
        print("indexes, views and validators are in place");
        return Ok(ExitCode::SUCCESS);
    }
    let refused: Vec<String> =
        refused.iter().map(|refused| format!("{}: {}", refused.what, refused.reason)).collect();
    Err(Failure::unavailable(anyhow::anyhow!("MongoDB refused {}", refused.join("; "))))
}
