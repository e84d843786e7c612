//! The live feed: every new audit record of any instance goes to every client of this one.
//!
//! All listeners share one change stream, which is open while somebody listens. Each message has a
//! token. A client that comes back with a token gets what it missed, from the buffer or from a
//! short stream of its own, and then joins the others. A slow client is disconnected and has to
//! come back.

mod change_stream;
mod hub;
mod message;
mod resume_token;
pub(super) mod websocket;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, broadcast::error::RecvError, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use change_stream::ChangeStreams;
pub use message::{Message, RESCHEDULED};
pub use resume_token::Token;

use self::{
    change_stream::StreamError,
    hub::{Hub, Subscription},
};
use crate::health::Backoff;

pub const MAX_LISTENERS: usize = 2000;
/// Most catch-up streams at once; each occupies a database connection.
const CATCH_UPS: usize = 8;
/// Buffered messages for a client that catches up.
const CATCH_UP_BUFFER: usize = 16;
/// How long the stream may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the stream stays open without listeners.
const LINGER: Duration = Duration::from_secs(60);

/// The live feed; cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    hub: Hub,
    source: ChangeStreams,
    catch_ups: Semaphore,
    listeners: watch::Sender<usize>,
    max_listeners: usize,
    stop: CancellationToken,
}

/// Why a client gets no more messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// The client was too slow. It can get the missed messages with its last token.
    Slow,
    /// What follows the token is no longer known.
    Gone,
    /// The database gives no stream now. The client can come back with its last token.
    Unavailable,
    /// This process stops. Another one has the same feed.
    Stopped,
}

/// An item of the feed.
#[derive(Debug)]
pub enum FeedItem {
    /// Everything up to this position was sent.
    Ready(Token),
    Message(Arc<Message>),
}

pub struct Listener {
    state: ListenerState,
    guard: ListenerGuard,
}

enum ListenerState {
    CatchingUp { catch_up: mpsc::Receiver<CatchUp>, is_ready: bool },
    Live { subscription: Subscription, is_ready: bool },
}

enum CatchUp {
    Message(Arc<Message>),
    /// No more messages at the moment.
    CaughtUp(Token),
    Subscription(Subscription),
    Disconnect(Disconnect),
}

/// Counts a listener until it is dropped.
struct ListenerGuard(Arc<Inner>);

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.0.listeners.send_modify(|count| *count -= 1);
    }
}

impl Feed {
    pub fn new(source: ChangeStreams) -> Self {
        Self(Arc::new(Inner {
            hub: Hub::new(),
            source,
            catch_ups: Semaphore::new(CATCH_UPS),
            listeners: watch::Sender::new(0),
            max_listeners: MAX_LISTENERS,
            stop: CancellationToken::new(),
        }))
    }

    /// Keeps the stream open while somebody listens. Never returns.
    pub async fn run(self) {
        // A run that panicked may have left a gap.
        self.0.hub.end();
        let mut listeners = self.0.listeners.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = listeners.wait_for(|count| *count > 0).await;
            self.follow(&mut listeners).await;
            self.0.hub.end();
        }
    }

    /// Reports the number of listeners whenever it changes. Never returns.
    pub async fn count(self, report: impl Fn(usize)) {
        let mut listeners = self.0.listeners.subscribe();
        loop {
            report(*listeners.borrow_and_update());
            // The sender lives as long as `self`.
            let _ = listeners.changed().await;
        }
    }

    /// Disconnects every client, and waits until they are gone or the time is over.
    pub async fn close(&self, within: Duration) {
        self.0.stop.cancel();
        let mut listeners = self.0.listeners.subscribe();
        let _ = tokio::time::timeout(within, listeners.wait_for(|count| *count == 0)).await;
    }

    /// Listens from now on, or after this token. `None`: too many listeners.
    pub fn listen(&self, since: Option<Token>) -> Option<Listener> {
        let seated = self.0.listeners.send_if_modified(|count| {
            let is_free = *count < self.0.max_listeners;
            *count += usize::from(is_free);
            is_free
        });
        let guard = seated.then(|| ListenerGuard(self.0.clone()))?;
        let (to, catch_up) = mpsc::channel(CATCH_UP_BUFFER);
        let inner = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = inner.connect(since, &to) => {}
                () = to.closed() => {}
            }
        });
        Some(Listener { state: ListenerState::CatchingUp { catch_up, is_ready: false }, guard })
    }

    async fn follow(&self, listeners: &mut watch::Receiver<usize>) {
        let Inner { hub, source, .. } = &*self.0;
        let mut after = None;
        let mut backoff = Backoff::default();
        let mut is_down = false;
        let mut nobody_since = None;
        let mut wanted = || {
            if *listeners.borrow_and_update() > 0 {
                nobody_since = None;
                return true;
            }
            nobody_since.get_or_insert_with(Instant::now).elapsed() < LINGER
        };
        while wanted() {
            let opened = || {
                if std::mem::take(&mut is_down) {
                    tracing::info!("the live feed continues");
                }
                backoff = Backoff::default();
            };
            let Err(broken) = source.follow(hub, &mut after, opened, &mut wanted).await else {
                return;
            };
            match &broken {
                StreamError::Lost(_) | StreamError::Dropped => {
                    tracing::warn!(reason = %broken, "the live feed has a gap, its listeners are disconnected");
                    hub.end();
                    after = None;
                }
                StreamError::Refused(reason) => {
                    if after.is_none() {
                        hub.refuse();
                    }
                    if !std::mem::replace(&mut is_down, true) {
                        tracing::error!(
                            %reason,
                            "no live feed: MongoDB gives usher no change streams, which need a replica set \
                             and the right to use them; usher tries again while somebody listens"
                        );
                    }
                }
                StreamError::Failed(reason) if !std::mem::replace(&mut is_down, true) => {
                    tracing::warn!(%reason, "the live feed waits for MongoDB");
                }
                StreamError::Failed(_) => {}
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }
}

impl Inner {
    /// Leads a listener to the shared stream, after catching up.
    async fn connect(&self, since: Option<Token>, to: &mpsc::Sender<CatchUp>) {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.hub.opened()).await;
        let subscription = self.hub.subscribe(since.as_ref());
        let last = match (subscription, since) {
            (Some(subscription), _) => CatchUp::Subscription(subscription),
            (None, Some(since)) if opened == Ok(true) => self.catch_up(&since, to).await,
            (None, _) => CatchUp::Disconnect(Disconnect::Unavailable),
        };
        // The client may be gone.
        let _ = to.send(last).await;
    }

    async fn catch_up(&self, since: &Token, to: &mpsc::Sender<CatchUp>) -> CatchUp {
        // The semaphore is never closed.
        let _permit = self.catch_ups.acquire().await;
        match self.source.catch_up(since, &self.hub, to).await {
            Ok(Some(subscription)) => CatchUp::Subscription(subscription),
            Err(StreamError::Lost(_) | StreamError::Dropped) => {
                CatchUp::Disconnect(Disconnect::Gone)
            }
            Ok(None) | Err(_) => CatchUp::Disconnect(Disconnect::Unavailable),
        }
    }
}

impl Listener {
    /// The next item. Cancel-safe.
    pub async fn next(&mut self) -> Result<FeedItem, Disconnect> {
        tokio::select! {
            biased;
            () = self.guard.0.stop.cancelled() => Err(Disconnect::Stopped),
            item = self.state.next() => item,
        }
    }
}

impl ListenerState {
    async fn next(&mut self) -> Result<FeedItem, Disconnect> {
        if let Self::CatchingUp { catch_up, is_ready } = self {
            match catch_up.recv().await {
                Some(CatchUp::Message(message)) => return Ok(FeedItem::Message(message)),
                Some(CatchUp::CaughtUp(token)) => {
                    *is_ready = true;
                    return Ok(FeedItem::Ready(token));
                }
                Some(CatchUp::Subscription(subscription)) => {
                    *self = Self::Live { subscription, is_ready: *is_ready }
                }
                Some(CatchUp::Disconnect(disconnect)) => return Err(disconnect),
                None => return Err(Disconnect::Unavailable),
            }
        }
        let Self::Live { subscription, is_ready } = self else {
            return Err(Disconnect::Unavailable);
        };
        if let Some(message) = subscription.backlog.pop_front() {
            return Ok(FeedItem::Message(message));
        }
        if !std::mem::replace(is_ready, true) {
            return Ok(FeedItem::Ready(subscription.position.clone()));
        }
        match subscription.receiver.recv().await {
            Ok(message) => Ok(FeedItem::Message(message)),
            Err(RecvError::Lagged(_)) => Err(Disconnect::Slow),
            // A reconnect finds out whether the position is still known.
            Err(RecvError::Closed) => Err(Disconnect::Unavailable),
        }
    }
}
