//! What happens, as it happens: each record that any instance adds to the audit is told to everybody
//! who listens to this one.
//!
//! One change stream for all of them, open while somebody listens. Each message carries a token; who
//! comes back with one hears what was missed, from memory or by a short stream of its own, and then
//! joins the others. Nobody waits for the slow: they are told to come back.

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
    change_stream::Broken,
    hub::{Hub, Joined},
};
use crate::health::Backoff;

/// Most who listen at once.
pub const MAX_LISTENERS: usize = 2000;
/// Most streams of those who catch up; each keeps a connection to the database busy.
const CATCH_UPS: usize = 8;
/// Messages on their way to one who catches up.
const AHEAD: usize = 16;
/// How long the stream may take to open before a listener is sent away.
const OPENING: Duration = Duration::from_secs(10);
/// How long the stream stays open when nobody listens any more.
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

/// Why somebody hears nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Too slow: messages were missed, and can be had again with the last token.
    Slow,
    /// What follows the token is not known any more.
    Gone,
    /// The database gives no stream now; to come back with the last token may help.
    Unavailable,
    /// This process ends; another one may have the same.
    Stopped,
}

/// What somebody who listens hears.
#[derive(Debug)]
pub enum Heard {
    /// Everything up to this place was told; from here on it comes as it happens.
    Ready(Token),
    /// Something happened.
    Message(Arc<Message>),
}

/// One who listens.
pub struct Listener {
    state: Listening,
    seat: Seat,
}

enum Listening {
    Behind { steps: mpsc::Receiver<Step>, is_ready: bool },
    Now { joined: Joined, is_ready: bool },
}

enum Step {
    Message(Arc<Message>),
    /// There is no more now.
    CaughtUp(Token),
    Joined(Joined),
    Ended(Ended),
}

/// Counts for one listener until it is dropped.
struct Seat(Arc<Inner>);

impl Drop for Seat {
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

    /// Keeps the stream open while somebody listens; never returns.
    pub async fn run(self) {
        let mut listeners = self.0.listeners.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = listeners.wait_for(|count| *count > 0).await;
            self.follow(&mut listeners).await;
            self.0.hub.end();
        }
    }

    /// How many listen, whenever that changes; never returns.
    pub async fn count(self, told: impl Fn(usize)) {
        let mut listeners = self.0.listeners.subscribe();
        loop {
            told(*listeners.borrow_and_update());
            // The sender lives as long as this.
            let _ = listeners.changed().await;
        }
    }

    /// Lets everybody go, and waits until they have gone or the time is over.
    pub async fn close(&self, within: Duration) {
        self.0.stop.cancel();
        let mut listeners = self.0.listeners.subscribe();
        let _ = tokio::time::timeout(within, listeners.wait_for(|count| *count == 0)).await;
    }

    /// Listens, from now on or after the place that the token stands for. `None`: there are too many.
    pub fn listen(&self, since: Option<Token>) -> Option<Listener> {
        let seated = self.0.listeners.send_if_modified(|count| {
            let is_free = *count < self.0.max_listeners;
            *count += usize::from(is_free);
            is_free
        });
        let seat = seated.then(|| Seat(self.0.clone()))?;
        let (to, steps) = mpsc::channel(AHEAD);
        let inner = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = inner.lead(since, &to) => {}
                () = to.closed() => {}
            }
        });
        Some(Listener { state: Listening::Behind { steps, is_ready: false }, seat })
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
                    tracing::info!("the live feed goes on");
                }
                backoff = Backoff::default();
            };
            let Err(broken) = source.follow(hub, &mut after, opened, &mut wanted).await else {
                return;
            };
            match &broken {
                Broken::Lost(_) | Broken::Dropped => {
                    tracing::warn!(reason = %broken, "the live feed has a gap, its listeners begin anew");
                    hub.end();
                    after = None;
                }
                Broken::Refused(reason) => {
                    if after.is_none() {
                        hub.refuse();
                    }
                    if !std::mem::replace(&mut is_down, true) {
                        tracing::error!(
                            %reason,
                            "no live feed: MongoDB gives usher no change streams, which need a replica set \
                             and the right to use them; it is asked again while somebody listens"
                        );
                    }
                }
                Broken::Failed(reason) if !std::mem::replace(&mut is_down, true) => {
                    tracing::warn!(%reason, "the live feed waits for MongoDB");
                }
                Broken::Failed(_) => {}
            }
            tokio::time::sleep(backoff.step()).await;
        }
    }
}

impl Inner {
    /// Leads one listener to where all are.
    async fn lead(&self, since: Option<Token>, to: &mpsc::Sender<Step>) {
        let opened = tokio::time::timeout(OPENING, self.hub.opened()).await;
        let joined = self.hub.join(since.as_ref());
        let last = match (joined, since) {
            (Some(joined), _) => Step::Joined(joined),
            (None, Some(since)) if opened == Ok(true) => self.catch_up(&since, to).await,
            (None, _) => Step::Ended(Ended::Unavailable),
        };
        // It may have left.
        let _ = to.send(last).await;
    }

    async fn catch_up(&self, since: &Token, to: &mpsc::Sender<Step>) -> Step {
        // Never closed.
        let _permit = self.catch_ups.acquire().await;
        match self.source.catch_up(since, &self.hub, to).await {
            Ok(Some(joined)) => Step::Joined(joined),
            Err(Broken::Lost(_) | Broken::Dropped) => Step::Ended(Ended::Gone),
            Ok(None) | Err(_) => Step::Ended(Ended::Unavailable),
        }
    }
}

impl Listener {
    /// What comes next. May be given up and called again; nothing is missed.
    ///
    /// # Errors
    /// Nothing more will come, and why.
    pub async fn next(&mut self) -> Result<Heard, Ended> {
        tokio::select! {
            biased;
            () = self.seat.0.stop.cancelled() => Err(Ended::Stopped),
            heard = self.state.next() => heard,
        }
    }
}

impl Listening {
    async fn next(&mut self) -> Result<Heard, Ended> {
        if let Self::Behind { steps, is_ready } = self {
            match steps.recv().await {
                Some(Step::Message(message)) => return Ok(Heard::Message(message)),
                Some(Step::CaughtUp(token)) => {
                    *is_ready = true;
                    return Ok(Heard::Ready(token));
                }
                Some(Step::Joined(joined)) => *self = Self::Now { joined, is_ready: *is_ready },
                Some(Step::Ended(ended)) => return Err(ended),
                None => return Err(Ended::Unavailable),
            }
        }
        let Self::Now { joined, is_ready } = self else { return Err(Ended::Unavailable) };
        if let Some(message) = joined.backlog.pop_front() {
            return Ok(Heard::Message(message));
        }
        if !std::mem::replace(is_ready, true) {
            return Ok(Heard::Ready(joined.position.clone()));
        }
        match joined.receiver.recv().await {
            Ok(message) => Ok(Heard::Message(message)),
            Err(RecvError::Lagged(_)) => Err(Ended::Slow),
            // Whether the place is still known is found out by coming back with it.
            Err(RecvError::Closed) => Err(Ended::Unavailable),
        }
    }
}
