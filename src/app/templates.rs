//! Templates of the database: loaded before the first message, then watched for changes.

use std::sync::Arc;

use tokio::sync::{SetOnce, watch};
use tokio_util::sync::CancellationToken;

use super::{configuration::Configuration, services::Services};
use crate::{
    metrics::Metrics,
    supervisor::{Supervisor, Task},
    template::store::{TemplateStore, Watcher},
};

/// Set once the templates of the database were loaded for the first time.
pub(super) type Loaded = Arc<SetOnce<()>>;

pub(super) fn spawn_watcher(
    configurations: watch::Receiver<Configuration>,
    services: &Services,
    metrics: &Metrics,
    supervisor: &Supervisor,
    end: &CancellationToken,
) -> Loaded {
    let loaded = Loaded::default();
    let store = TemplateStore::new(services.audit.database());
    let (metrics, watched) = (metrics.clone(), loaded.clone());
    supervisor.spawn_forever(Task::TemplateWatcher, end, move || {
        let (store, metrics) = (store.clone(), metrics.clone());
        watch_current(configurations.clone(), store, metrics, watched.clone())
    });
    loaded
}

/// Watches for the configuration in use, which may change.
async fn watch_current(
    mut configurations: watch::Receiver<Configuration>,
    store: TemplateStore,
    metrics: Metrics,
    loaded: Loaded,
) {
    loop {
        let configuration = configurations.borrow_and_update().clone();
        let watcher = Watcher::new(store.clone(), metrics.clone());
        tokio::select! {
            () = watch(configuration, watcher, loaded.clone()) => {}
            Ok(()) = configurations.changed() => {}
        }
    }
}

async fn watch(configuration: Configuration, mut watcher: Watcher, loaded: Loaded) {
    let (templates, trial) = (&configuration.templates, configuration.trial());
    watcher.load(templates, trial).await;
    let _ = loaded.set(());
    watcher.watch(templates, trial).await;
}
