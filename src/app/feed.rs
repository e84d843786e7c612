//! Starts the live feed of the API.

use tokio_util::sync::CancellationToken;

use super::load::Loaded;
use crate::{
    api::feed::{ChangeStreams, Feed},
    clients::mongo::connect,
    failure::Failure,
    metrics::Metrics,
};

/// The feed, with its own connections to MongoDB; `None` without the API.
pub(crate) async fn feed(
    loaded: &Loaded,
    metrics: Metrics,
    background: &CancellationToken,
) -> Result<Option<Feed>, Failure> {
    let settings = &loaded.settings;
    if settings.api.is_none() {
        return Ok(None);
    }
    let database = connect(&settings.mongodb, &settings.mongodb_database).await;
    let database = database.map_err(|error| Failure::config(format!("MONGODB_URI: {error:#}")))?;
    let to_customers = loaded.routing.reschedule_notices().into_iter().collect();
    let feed = Feed::new(ChangeStreams::new(database, to_customers));
    tokio::spawn(background.clone().run_until_cancelled_owned(feed.clone().run()));
    let count = feed.clone().count(move |listeners| metrics.listeners(listeners));
    tokio::spawn(background.clone().run_until_cancelled_owned(count));
    Ok(Some(feed))
}
