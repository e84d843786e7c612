//! Limits the open connections. When the limit is reached, the one that has kept usher waiting longest
//! for a request makes place for the new one, so clients that send nothing can't keep others out.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::Request,
};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

pub(super) struct Connections {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    count: usize,
    /// Connections that wait for a request or the rest of it, longest first.
    waiting: BTreeMap<u64, CancellationToken>,
    last: u64,
    /// Whether the limit was reached since the connections last were few.
    is_full: bool,
}

/// A place among the open connections, until it is dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    /// Key in `waiting`; `None` while usher is at work on a request.
    waits_as: Mutex<Option<u64>>,
    /// Cancelled when the place goes to another connection.
    pub(super) evicted: CancellationToken,
}

impl Connections {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// `None` if every open connection is at work on a request.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut open = self.lock();
        if open.count >= self.max {
            if !std::mem::replace(&mut open.is_full, true) {
                tracing::warn!(max = self.max, "all HTTP connections are in use");
            }
            let (_, evicted) = open.waiting.pop_first()?;
            evicted.cancel();
            open.count -= 1;
        } else if open.count < self.max / 2 {
            open.is_full = false;
        }
        open.count += 1;
        let evicted = CancellationToken::new();
        let key = open.wait(evicted.clone());
        let waits_as = Mutex::new(Some(key));
        Some(Arc::new(Place { connections: self.clone(), waits_as, evicted }))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn wait(&mut self, evicted: CancellationToken) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, evicted);
        self.last
    }
}

impl Place {
    /// The request has arrived whole.
    pub(super) fn works(&self) {
        let mut open = self.connections.lock();
        if let Some(key) = self.key().take() {
            open.waiting.remove(&key);
        }
    }

    /// The request is answered; the client's turn.
    pub(super) fn waits(&self) {
        let mut open = self.connections.lock();
        let mut key = self.key();
        if let Some(key) = key.take() {
            open.waiting.remove(&key);
        }
        if !self.evicted.is_cancelled() {
            *key = Some(open.wait(self.evicted.clone()));
        }
    }

    /// The request with a body that reports its end to this place, and has to end in time.
    pub(super) fn watch(
        self: &Arc<Self>,
        request: Request<Incoming>,
        limit: Duration,
    ) -> Request<Body> {
        if request.body().is_end_stream() {
            self.works();
        }
        let deadline = Box::pin(sleep(limit));
        request.map(|inner| Body::new(WatchedBody { inner, deadline, place: self.clone() }))
    }

    /// Disconnects the client.
    fn evict(&self) {
        self.works();
        let mut open = self.connections.lock();
        if !self.evicted.is_cancelled() {
            self.evicted.cancel();
            open.count -= 1;
        }
    }

    fn key(&self) -> MutexGuard<'_, Option<u64>> {
        self.waits_as.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if let Some(key) = self.key().take() {
            open.waiting.remove(&key);
        }
        if !self.evicted.is_cancelled() {
            open.count -= 1;
        }
    }
}

struct WatchedBody {
    inner: Incoming,
    deadline: Pin<Box<Sleep>>,
    place: Arc<Place>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if self.inner.is_end_stream() || matches!(frame, Poll::Ready(None)) {
            self.place.works();
        } else if frame.is_pending() && self.deadline.as_mut().poll(cx).is_ready() {
            self.place.evict();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_waits_longest_makes_place_and_one_at_work_never_does() {
        let connections = Connections::new(2);
        let [first, second] = [(); 2].map(|()| connections.enter().expect("a place"));
        first.works();
        let third = connections.enter().expect("the place of the second");
        assert!(second.evicted.is_cancelled() && !first.evicted.is_cancelled());
        // An evicted one neither frees a place twice nor waits again.
        second.waits();
        drop(second);
        third.works();
        assert!(connections.enter().is_none());
        first.waits();
        let fourth = connections.enter().expect("the place of the first");
        assert!(first.evicted.is_cancelled());
        drop((first, third, fourth));
        assert_eq!(connections.lock().count, 0);
        assert!(connections.lock().waiting.is_empty());
    }
}
