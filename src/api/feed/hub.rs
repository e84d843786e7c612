//! Hands what one stream brings to all who listen, and keeps the last of it, so that whoever was away
//! for a moment joins without a look at the database.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{broadcast, watch};

use super::{Message, Token};

/// Messages that are kept, and that a slow listener may be behind.
pub(super) const KEPT: usize = 1024;

/// All listeners of this process.
pub(super) struct Hub {
    state: Mutex<State>,
    door: watch::Sender<Door>,
}

/// Whether anybody can join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Opening,
    Open,
    Refused,
}

struct State {
    /// Everything after this place is in `kept`, or will be. `None`: the stream is not open.
    base: Option<Token>,
    kept: VecDeque<Arc<Message>>,
    sender: broadcast::Sender<Arc<Message>>,
}

/// Somebody who hears all that comes.
#[derive(Debug)]
pub(super) struct Joined {
    /// What came after the place that was asked for.
    pub(super) backlog: VecDeque<Arc<Message>>,
    /// What comes after that.
    pub(super) receiver: broadcast::Receiver<Arc<Message>>,
    /// The place after the backlog.
    pub(super) position: Token,
}

impl Hub {
    pub(super) fn new() -> Self {
        let state =
            State { base: None, kept: VecDeque::new(), sender: broadcast::Sender::new(KEPT) };
        Self { state: Mutex::new(state), door: watch::Sender::new(Door::Opening) }
    }

    /// The stream is open, and will bring everything after this place.
    pub(super) fn begin(&self, at: Token) {
        self.state().base = Some(at);
        self.door.send_replace(Door::Open);
    }

    /// There will be no stream for some time.
    pub(super) fn refuse(&self) {
        self.door.send_replace(Door::Refused);
    }

    /// The stream has brought everything up to this place.
    pub(super) fn reached(&self, at: Token) {
        let mut state = self.state();
        // Otherwise the last message is where it has come to.
        if state.kept.is_empty() && state.base.is_some() {
            state.base = Some(at);
        }
    }

    pub(super) fn publish(&self, message: Message) {
        let message = Arc::new(message);
        let mut state = self.state();
        state.kept.push_back(message.clone());
        if state.kept.len() > KEPT
            && let Some(oldest) = state.kept.pop_front()
        {
            state.base = Some(oldest.token.clone());
        }
        // Nobody may be listening.
        let _ = state.sender.send(message);
    }

    /// The stream has ended, and what comes next may not follow on what came: everybody is let go.
    pub(super) fn end(&self) {
        self.door.send_replace(Door::Opening);
        let mut state = self.state();
        *state = State { base: None, kept: VecDeque::new(), sender: broadcast::Sender::new(KEPT) };
    }

    /// Returns once the stream is open, or there will be none.
    pub(super) async fn opened(&self) -> bool {
        let mut door = self.door.subscribe();
        // The sender lives as long as this.
        door.wait_for(|door| *door != Door::Opening).await.is_ok_and(|door| *door == Door::Open)
    }

    /// Joins those who listen, after this place or from now on. `None` where nothing is known of the
    /// place here.
    pub(super) fn join(&self, since: Option<&Token>) -> Option<Joined> {
        let state = self.state();
        let base = state.base.as_ref()?;
        let at = |token: &Token| {
            let found = state.kept.iter().rposition(|message| message.token == *token);
            found.map(|index| index + 1).or((base == token).then_some(0))
        };
        let from = since.map_or(Some(state.kept.len()), at)?;
        let position = state.kept.back().map_or(base, |message| &message.token).clone();
        let backlog = state.kept.range(from..).cloned().collect();
        Some(Joined { backlog, receiver: state.sender.subscribe(), position })
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
        Message { token: token(number), kind: String::new(), text: number.to_string() }
    }

    fn backlog(hub: &Hub, since: usize) -> Option<Vec<String>> {
        let joined = hub.join(Some(&token(since)))?;
        Some(joined.backlog.iter().map(|message| message.text.clone()).collect())
    }

    #[tokio::test]
    async fn who_joins_hears_all_after_the_place_asked_for_and_nothing_twice() {
        let hub = Hub::new();
        assert!(hub.join(None).is_none(), "not open yet");
        hub.begin(token(0));
        hub.reached(token(1));
        hub.publish(message(2));
        hub.publish(message(3));
        assert_eq!(backlog(&hub, 0), None, "the stream has come further since");
        assert_eq!(backlog(&hub, 1).unwrap(), ["2", "3"]);
        assert_eq!(backlog(&hub, 2).unwrap(), ["3"]);
        let mut joined = hub.join(Some(&token(3))).unwrap();
        assert!(joined.backlog.is_empty());
        assert_eq!(joined.position, token(3));
        hub.publish(message(4));
        assert_eq!(joined.receiver.recv().await.unwrap().text, "4");
        assert!(hub.join(None).unwrap().backlog.is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_the_slow_are_told() {
        let hub = Hub::new();
        hub.begin(token(0));
        let mut slow = hub.join(None).unwrap().receiver;
        (1..=KEPT + 2).for_each(|number| hub.publish(message(number)));
        assert_eq!(backlog(&hub, 1), None);
        assert_eq!(backlog(&hub, 2).unwrap().len(), KEPT);
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Lagged(2))));
        hub.end();
        while slow.recv().await.is_ok() {}
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Closed)));
        assert_eq!(backlog(&hub, KEPT), None);
    }
}
