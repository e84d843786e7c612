//! A TCP proxy that fails as networks do.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::support::eventually;

/// What the proxy does to traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weather {
    /// Nothing.
    Fair,
    /// Delayed in both directions.
    Latency(Duration),
    /// Nothing passes, without an error; data arrives once the condition ends.
    Blackhole,
    /// Every connection is reset, old or new.
    Reset,
    /// A connection is reset once this many more bytes went to the server.
    CutAfter(usize),
    /// The client reads an end of file, but its data still arrives.
    HalfClose,
}

/// Connections that stay silent for good, without an error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stranded {
    None,
    /// One connection, by its port towards the server.
    One(u16),
    /// Every connection opened before.
    All(Instant),
}

/// Requests that reach the server and are not answered.
#[derive(Debug, Clone, Default)]
struct Unanswered {
    /// See [`Proxy::swallow_answer_to`].
    swallowed: Arc<Mutex<Option<Vec<u8>>>>,
    /// See [`Proxy::cut_instead_of_answers_to`].
    cut: Arc<Mutex<Option<Vec<u8>>>>,
}

/// A running proxy in front of one server.
pub(crate) struct Proxy {
    address: SocketAddr,
    /// Where new connections lead.
    server: Arc<Mutex<String>>,
    weather: watch::Sender<Weather>,
    stranded: watch::Sender<Stranded>,
    unanswered: Unanswered,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// In front of `server`, a host and port.
    pub(crate) async fn before(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let weather = watch::Sender::new(Weather::Fair);
        let stranded = watch::Sender::new(Stranded::None);
        let open = Arc::<AtomicUsize>::default();
        let server = Arc::new(Mutex::new(server.to_owned()));
        let unanswered = Unanswered::default();
        let all = (weather.subscribe(), stranded.subscribe(), unanswered.clone());
        let task = tokio::spawn(accept(listener, server.clone(), all, open.clone()));
        Self { address, server, weather, stranded, unanswered, open, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections lead to this server; those that are open stay.
    pub(crate) fn lead_to(&self, server: &str) {
        server.clone_into(&mut self.server.lock().expect("not poisoned"));
    }

    /// Sets the condition, for old and new connections.
    pub(crate) fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Silences this connection, known by its port towards the server. There is no
    /// error, and others continue.
    pub(crate) fn strand(&self, port: u16) {
        self.stranded.send_replace(Stranded::One(port));
    }

    /// The next request that contains these bytes reaches the server, but its connection never brings
    /// anything back again. All others, old and new, are well.
    pub(crate) fn swallow_answer_to(&self, request: &[u8]) {
        *self.unanswered.swallowed.lock().expect("not poisoned") = Some(request.to_vec());
    }

    /// Whether the answer was swallowed.
    pub(crate) fn has_swallowed(&self) -> bool {
        self.unanswered.swallowed.lock().expect("not poisoned").is_none()
    }

    /// Each request that contains these bytes reaches the server, whose answer resets the connection.
    pub(crate) fn cut_instead_of_answers_to(&self, request: Option<&[u8]>) {
        *self.unanswered.cut.lock().expect("not poisoned") = request.map(<[u8]>::to_vec);
    }

    /// Silences all open connections.
    pub(crate) fn strand_all(&self) {
        self.stranded.send_replace(Stranded::All(Instant::now()));
    }

    /// Resets every connection, drops data in transit, and then behaves.
    pub(crate) async fn clear(&self) {
        self.turn(Weather::Reset);
        let none = async || (self.open.load(Ordering::Relaxed) == 0).then_some(());
        eventually("all connections are reset", none).await;
        self.turn(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: Arc<Mutex<String>>,
    (weather, stranded, unanswered): (
        watch::Receiver<Weather>,
        watch::Receiver<Stranded>,
        Unanswered,
    ),
    open: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let server = server.lock().expect("not poisoned").clone();
        let (weather, open) = (weather.clone(), open.clone());
        let (stranded, unanswered) = (stranded.clone(), unanswered.clone());
        open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            connection(client, &server, weather, stranded, unanswered).await.ok();
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn connection(
    client: TcpStream,
    server: &str,
    weather: watch::Receiver<Weather>,
    mut stranded: watch::Receiver<Stranded>,
    unanswered: Unanswered,
) -> io::Result<()> {
    // A connection that ends without a shutdown ends with a reset.
    client.set_zero_linger()?;
    if *weather.borrow() == Weather::Reset {
        return Ok(());
    }
    let server = TcpStream::connect(server).await?;
    server.set_zero_linger()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (port, opened) = (server.local_addr()?.port(), Instant::now());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mute = Mute { unanswered, is_mute: AtomicBool::new(false), is_cut: AtomicBool::new(false) };
    let up = pump(from_client, to_server, weather.clone(), Way::ToServer, &mute);
    let down = pump(from_server, to_client, weather, Way::ToClient, &mute);
    // An error ends both directions; an end of file only its own.
    let both = std::pin::pin!(async { tokio::try_join!(up, down) });
    let mine = |stranded: &Stranded| match *stranded {
        Stranded::None => false,
        Stranded::One(one) => one == port,
        Stranded::All(before) => opened < before,
    };
    let stranded = async { stranded.wait_for(mine).await.is_ok() };
    tokio::select! {
        ended = both => return ended.map(drop),
        _ = stranded => {}
    }
    // Kept open, never read.
    std::future::pending().await
}

/// Whether a connection brings nothing back any more.
struct Mute {
    unanswered: Unanswered,
    is_mute: AtomicBool,
    /// The next answer resets the connection.
    is_cut: AtomicBool,
}

impl Mute {
    fn swallows(&self, way: Way, bytes: &[u8]) -> io::Result<bool> {
        if way == Way::ToClient {
            return match self.is_cut.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => Ok(self.is_mute.load(Ordering::Relaxed)),
            };
        }
        let holds = |wanted: &mut Vec<u8>| bytes.windows(wanted.len()).any(|it| it == wanted);
        if self.unanswered.swallowed.lock().expect("not poisoned").take_if(holds).is_some() {
            self.is_mute.store(true, Ordering::Relaxed);
        }
        if self.unanswered.cut.lock().expect("not poisoned").as_mut().is_some_and(holds) {
            self.is_cut.store(true, Ordering::Relaxed);
        }
        Ok(false)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToServer,
    ToClient,
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    way: Way,
    mute: &Mute,
) -> io::Result<()> {
    let mut passed = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Blackhole => {
                weather.changed().await.map_err(io::Error::other)?;
                continue;
            }
            Weather::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Weather::HalfClose if way == Way::ToClient => return to.shutdown().await,
            _ => {}
        }
        let read = tokio::select! {
            biased;
            changed = weather.changed() => {
                passed = 0;
                changed.map_err(io::Error::other)?;
                continue;
            }
            read = from.read(&mut buffer) => read?,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        if mute.swallows(way, &buffer[..read])? {
            continue;
        }
        match now {
            Weather::Latency(by) => tokio::time::sleep(by).await,
            Weather::CutAfter(bytes) if way == Way::ToServer => {
                let left = bytes.saturating_sub(passed);
                passed += read;
                if left < read {
                    to.write_all(&buffer[..left]).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            _ => {}
        }
        to.write_all(&buffer[..read]).await?;
    }
}
