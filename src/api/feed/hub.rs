//! Distributes the messages of one stream to all listeners, and buffers the latest of them, so that
//! a listener that was away for a moment needs no stream of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{broadcast, watch};

use super::{Message, Token};

/// Buffered messages, and how far a slow listener may fall behind.
pub(super) const BUFFER: usize = 1024;

pub(super) struct Hub {
    state: Mutex<State>,
    availability: watch::Sender<Availability>,
}

/// Whether listeners can join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Opening,
    Open,
    Refused,
}

struct State {
    /// The position before the buffer. `None`: the stream is not open.
    base: Option<Token>,
    buffer: VecDeque<Arc<Message>>,
    sender: broadcast::Sender<Arc<Message>>,
}

/// A listener that receives every further message.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Messages after the requested position.
    pub(super) backlog: VecDeque<Arc<Message>>,
    /// Later messages.
    pub(super) receiver: broadcast::Receiver<Arc<Message>>,
    /// The position after the backlog.
    pub(super) position: Token,
}

impl Hub {
    pub(super) fn new() -> Self {
        let state =
            State { base: None, buffer: VecDeque::new(), sender: broadcast::Sender::new(BUFFER) };
        Self { state: Mutex::new(state), availability: watch::Sender::new(Availability::Opening) }
    }

    /// The stream is open at this position.
    pub(super) fn begin(&self, at: Token) {
        self.state().base = Some(at);
        self.availability.send_replace(Availability::Open);
    }

    /// No stream is available for the time being.
    pub(super) fn refuse(&self) {
        self.availability.send_replace(Availability::Refused);
    }

    /// The stream has reached this position without a message.
    pub(super) fn reached(&self, at: Token) {
        let mut state = self.state();
        // Otherwise the last message is the position.
        if state.buffer.is_empty() && state.base.is_some() {
            state.base = Some(at);
        }
    }

    pub(super) fn publish(&self, message: Message) {
        let message = Arc::new(message);
        let mut state = self.state();
        state.buffer.push_back(message.clone());
        if state.buffer.len() > BUFFER
            && let Some(oldest) = state.buffer.pop_front()
        {
            state.base = Some(oldest.token.clone());
        }
        // There may be no listener.
        let _ = state.sender.send(message);
    }

    /// A record was erased: a message about it is told without its personal data from now on.
    pub(super) fn erased(&self, record: &str) {
        let mut state = self.state();
        for message in state.buffer.iter_mut().filter(|message| message.record == record) {
            *message = Arc::new(message.erased());
        }
    }

    /// The stream has disconnect and may have a gap: disconnects every listener.
    pub(super) fn end(&self) {
        self.availability.send_replace(Availability::Opening);
        let mut state = self.state();
        *state =
            State { base: None, buffer: VecDeque::new(), sender: broadcast::Sender::new(BUFFER) };
    }

    /// Returns once the stream is open (`true`) or unavailable.
    pub(super) async fn opened(&self) -> bool {
        let mut availability = self.availability.subscribe();
        // The sender lives as long as `self`.
        availability
            .wait_for(|availability| *availability != Availability::Opening)
            .await
            .is_ok_and(|availability| *availability == Availability::Open)
    }

    /// Joins after this position, or from now on. `None` if the position is unknown.
    pub(super) fn subscribe(&self, since: Option<&Token>) -> Option<Subscription> {
        let state = self.state();
        let base = state.base.as_ref()?;
        let at = |token: &Token| {
            let found = state.buffer.iter().rposition(|message| message.token == *token);
            found.map(|index| index + 1).or((base == token).then_some(0))
        };
        let from = since.map_or(Some(state.buffer.len()), at)?;
        let position = state.buffer.back().map_or(base, |message| &message.token).clone();
        let backlog = state.buffer.range(from..).cloned().collect();
        Some(Subscription { backlog, receiver: state.sender.subscribe(), position })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> Token {
        Token::parse(&format!("{number:08x}")).expect("a token")
    }

    fn message(number: usize) -> Message {
        Message {
            record: String::new(),
            token: token(number),
            kind: String::new(),
            text: number.to_string(),
        }
    }

    fn backlog(hub: &Hub, since: usize) -> Option<Vec<String>> {
        let subscription = hub.subscribe(Some(&token(since)))?;
        Some(subscription.backlog.iter().map(|message| message.text.clone()).collect())
    }

    #[tokio::test]
    async fn who_joins_hears_all_after_the_place_asked_for_and_nothing_twice() {
        let hub = Hub::new();
        assert!(hub.subscribe(None).is_none(), "not open yet");
        hub.begin(token(0));
        hub.reached(token(1));
        hub.publish(message(2));
        hub.publish(message(3));
        assert_eq!(backlog(&hub, 0), None, "the stream has come further since");
        assert_eq!(backlog(&hub, 1).unwrap(), ["2", "3"]);
        assert_eq!(backlog(&hub, 2).unwrap(), ["3"]);
        let mut subscription = hub.subscribe(Some(&token(3))).unwrap();
        assert!(subscription.backlog.is_empty());
        assert_eq!(subscription.position, token(3));
        hub.publish(message(4));
        assert_eq!(subscription.receiver.recv().await.unwrap().text, "4");
        assert!(hub.subscribe(None).unwrap().backlog.is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_the_slow_are_told() {
        let hub = Hub::new();
        hub.begin(token(0));
        let mut slow = hub.subscribe(None).unwrap().receiver;
        (1..=BUFFER + 2).for_each(|number| hub.publish(message(number)));
        assert_eq!(backlog(&hub, 1), None);
        assert_eq!(backlog(&hub, 2).unwrap().len(), BUFFER);
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Lagged(2))));
        hub.end();
        while slow.recv().await.is_ok() {}
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Closed)));
        assert_eq!(backlog(&hub, BUFFER), None);
    }
}
