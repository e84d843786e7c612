//! A scripted mail server: it keeps every mail in memory, and a script makes it refuse, delay or
//! hang up at any phase.

mod script;
mod session;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
};

use self::script::{Rule, RuleBuilder};
use super::{eventually, mail::Mail};

pub(crate) use self::script::Phase;

/// Extensions that the server offers (RFC 5321 4.1.1.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offers {
    pub(crate) pipelining: bool,
    pub(crate) smtputf8: bool,
    /// The largest mail, in bytes (RFC 1870).
    pub(crate) size: Option<u64>,
    /// Answers DATA with 354 although every recipient was refused (RFC 2920 3.1 allows that).
    pub(crate) data_without_recipient: bool,
}

impl Default for Offers {
    fn default() -> Self {
        Self { pipelining: true, smtputf8: true, size: None, data_without_recipient: false }
    }
}

/// A running server; it ends with the test's runtime.
pub(crate) struct SmtpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// A reserved port without a listener: connections are refused.
pub(crate) struct ClosedPort {
    socket: TcpSocket,
    address: SocketAddr,
}

struct Shared {
    offers: Offers,
    state: Mutex<State>,
    /// Counts the orders to hang up.
    hang_up: watch::Sender<u32>,
    /// Counts the orders to release held replies.
    release: watch::Sender<u32>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Answered with 250, or about to be.
    accepted: Vec<Mail>,
    /// Complete with its dot, whatever the answer.
    received: Vec<Mail>,
    reached: HashMap<Phase, usize>,
    sessions: usize,
    quits: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no session panicked")
    }
}

impl ClosedPort {
    /// Takes a free one.
    pub(crate) fn take() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        Self { socket, address }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Begins to listen.
    pub(crate) fn open(self, offers: Offers) -> SmtpServer {
        let listener = self.socket.listen(128).expect("it is bound");
        SmtpServer::serve(listener, self.address, offers)
    }
}

impl SmtpServer {
    /// Offers all extensions, without a script: it accepts all mail.
    pub(crate) async fn start() -> Self {
        Self::offering(Offers::default()).await
    }

    pub(crate) async fn offering(offers: Offers) -> Self {
        ClosedPort::take().open(offers)
    }

    fn serve(listener: TcpListener, address: SocketAddr, offers: Offers) -> Self {
        let shared = Arc::new(Shared {
            offers,
            state: Mutex::default(),
            hang_up: watch::Sender::new(0),
            release: watch::Sender::new(0),
        });
        let task = tokio::spawn(session::accept(listener, shared.clone()));
        Self { shared, address, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Begins a rule: what happens at this phase instead of the usual reply.
    pub(crate) fn at(&self, phase: Phase) -> RuleBuilder<'_> {
        RuleBuilder::new(self, phase)
    }

    fn add(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Removes every rule and releases held replies.
    pub(crate) fn relent(&self) {
        self.shared.state().rules.clear();
        self.shared.release.send_modify(|orders| *orders += 1);
    }

    /// Closes every connection that waits for a command.
    pub(crate) fn hang_up(&self) {
        self.shared.hang_up.send_modify(|orders| *orders += 1);
    }

    /// Mails that were accepted.
    pub(crate) fn accepted(&self) -> Vec<Mail> {
        self.shared.state().accepted.clone()
    }

    /// Mails that were complete, whatever the answer: each may have reached its recipient.
    pub(crate) fn received(&self) -> Vec<Mail> {
        self.shared.state().received.clone()
    }

    /// Connections that were opened so far.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.state().sessions
    }

    /// Connections that were ended with QUIT.
    pub(crate) fn quits(&self) -> usize {
        self.shared.state().quits
    }

    /// How often a phase was reached, counted before its reply.
    pub(crate) fn reached(&self, phase: Phase) -> usize {
        self.shared.state().reached.get(&phase).copied().unwrap_or(0)
    }

    /// Waits until a phase was reached this often.
    pub(crate) async fn until_reached(&self, phase: Phase, count: usize) {
        let what = format!("{phase:?} is reached {count} times");
        eventually(&what, async || (self.reached(phase) >= count).then_some(())).await;
    }

    /// Waits for this many mails, and fails if there are more.
    pub(crate) async fn until_accepted(&self, count: usize) -> Vec<Mail> {
        let mails = eventually(&format!("{count} mails"), async || {
            let mails = self.accepted();
            (mails.len() >= count).then_some(mails)
        })
        .await;
        assert_eq!(mails.len(), count, "more mails than expected");
        mails
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
