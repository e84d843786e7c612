//! A channel that another one can take the place of, while messages wait for it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Channel, Slot, SlotRequest};

pub(crate) struct ReplaceableChannel(watch::Sender<Arc<dyn Channel>>);

impl ReplaceableChannel {
    pub(crate) fn new(channel: Arc<dyn Channel>) -> Self {
        Self(watch::Sender::new(channel))
    }

    /// Messages that wait go on with the new channel; those that are being sent end where they are.
    pub(crate) async fn replace(&self, channel: Arc<dyn Channel>) {
        self.0.send_replace(channel).close().await;
    }

    fn current(&self) -> Arc<dyn Channel> {
        self.0.borrow().clone()
    }
}

#[async_trait]
impl Channel for ReplaceableChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        self.current().check_recipient(address)
    }

    async fn ready(&self, request: SlotRequest<'_>) -> Box<dyn Slot> {
        let mut channels = self.0.subscribe();
        loop {
            let channel = channels.borrow_and_update().clone();
            tokio::select! {
                slot = channel.ready(request) => return slot,
                _ = channels.changed() => {}
            }
        }
    }

    async fn check(&self) {
        self.current().check().await;
    }

    async fn close(&self) {
        self.current().close().await;
    }
}
