//! A channel that keeps what it sends for the gallery, behind a server that is busy twice for one recipient.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::{
    audit::Smtp,
    channel::{Attempted, Channel, Outcome, Outgoing, Slot, SlotRequest},
    cli::gallery::GalleryMessage,
    routing::ChannelKind,
};

const BUSY_RECIPIENT: &str = "busy@example.com";

/// The messages that were sent.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Vec<GalleryMessage>>>);

impl Sent {
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    pub(super) fn take(&self) -> Vec<GalleryMessage> {
        std::mem::take(&mut *lock(&self.0))
    }
}

pub(super) struct DemoChannel {
    inner: Box<dyn Channel>,
    kind: ChannelKind,
    sent: Sent,
    refusals: Arc<Mutex<u32>>,
}

impl DemoChannel {
    pub(super) fn new(inner: Box<dyn Channel>, kind: ChannelKind, sent: Sent) -> Self {
        Self { inner, kind, sent, refusals: Arc::default() }
    }
}

struct DemoSlot {
    slot: Box<dyn Slot>,
    kind: ChannelKind,
    sent: Sent,
    refusals: Arc<Mutex<u32>>,
}

#[async_trait]
impl Channel for DemoChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        self.inner.check_recipient(address)
    }

    async fn ready(&self, request: SlotRequest<'_>) -> Box<dyn Slot> {
        let slot = self.inner.ready(request).await;
        let (sent, refusals) = (self.sent.clone(), self.refusals.clone());
        Box::new(DemoSlot { slot, kind: self.kind, sent, refusals })
    }
}

#[async_trait]
impl Slot for DemoSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        if message.recipient == BUSY_RECIPIENT && is_busy(&self.refusals) {
            return Outcome::Refused { reply: busy(), permanent: false }.into();
        }
        let attempted = self.slot.send(message, latch).await;
        if matches!(attempted.outcome, Outcome::Sent(_) | Outcome::Simulated) {
            let title = format!("to {}", message.recipient);
            let message = GalleryMessage { title, channel: self.kind, message: message.clone() };
            lock(&self.sent.0).push(message);
        }
        attempted
    }
}

/// True for the first two times.
fn is_busy(refusals: &Mutex<u32>) -> bool {
    let mut refusals = lock(refusals);
    *refusals += 1;
    *refusals <= 2
}

fn busy() -> Smtp {
    Smtp {
        server: "demo".to_owned(),
        command: "RCPT".to_owned(),
        code: 451,
        enhanced: Some("4.3.2".to_owned()),
        reply: "4.3.2 the demo's mail server is busy".to_owned(),
        relay: None,
        queue_id: None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
