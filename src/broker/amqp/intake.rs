//! lapin's connection with a [`FrameFilter`] in between, and the faults and memory of the messages that pass
//! through it.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{Stream, future::BoxFuture};
use lapin::{
    Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig},
    uri::AMQPUri,
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::frame_filter::{Arrived, FrameFilter};
use crate::event::{Fault, MAX_EVENT_BYTES};

/// Memory for messages that were received and are not settled, in bytes. Beyond it, usher stops reading: the
/// prefetch bounds the number of messages, not their size. While its mail is made, a large message takes about
/// ten times its size.
pub const RECEIVED_BYTES: usize = 16 * 1024 * 1024;

/// Interval of heartbeats to lapin while a message waits for memory. Shorter than the shortest heartbeat
/// that `RABBITMQ_URL` can set, 1 s.
const HEARTBEAT_WHILE_WAITING: Duration = Duration::from_millis(500);
/// Bytes read at once.
const READ: usize = 16 * 1024;
/// Reads without output before lapin gets its turn, for its heartbeats.
const READS: usize = 64;

/// Faults and memory of one connection's messages, by channel and delivery tag.
#[derive(Debug)]
pub(super) struct Intake {
    budget: Option<Arc<Semaphore>>,
    arrivals: Mutex<HashMap<(u16, u64), Arrival>>,
}

/// Fault and memory of one message. The memory counts until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    pub(super) fault: Option<Fault>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// `budget` is the memory for messages; `None` for no bound.
    pub(super) fn new(budget: Option<Arc<Semaphore>>) -> Arc<Self> {
        Arc::new(Self { budget, arrivals: Mutex::default() })
    }

    /// Takes out the arrival of this message.
    pub(super) fn take(&self, channel: u16, tag: u64) -> Arrival {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.remove(&(channel, tag)).unwrap_or_default()
    }

    fn put(&self, arrived: Arrived, memory: Option<OwnedSemaphorePermit>) {
        if arrived.fault.is_none() && memory.is_none() {
            return;
        }
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = Arrival { fault: arrived.fault, _memory: memory };
        arrivals.insert((arrived.channel, arrived.tag), arrival);
    }
}

/// Connects through the filter.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
    intake: Arc<Intake>,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let reactor = FilteringReactor { tokio: Tokio::current(), intake };
    let kit = RuntimeParts::new(Tokio::current(), reactor.clone());
    let open = async move |uri: AMQPUri, _| {
        let stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
        Ok(AsyncTcpStream::Plain(FilteredStream::new(stream, reactor.clone())))
    };
    Connection::connector(uri, Runtime::new(kit), open, properties).await
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// tokio's reactor with filtered streams. lapin takes the type of its stream from the reactor.
#[derive(Debug, Clone)]
struct FilteringReactor {
    tokio: Tokio,
    intake: Arc<Intake>,
}

impl Reactor for FilteringReactor {
    type TcpStream = FilteredStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<FilteredStream>> + Send + 'static {
        let (stream, reactor) = (self.tokio.tcp_connect_addr(address), self.clone());
        async move { Ok(FilteredStream::new(AsyncTcpStream::Plain(stream.await?), reactor)) }
    }
}

/// A connection to the broker, encrypted or not, that passes through the filter.
struct FilteredStream {
    stream: Socket,
    filter: FrameFilter,
    intake: Arc<Intake>,
    /// lapin reads on a thread of its own, where `tokio::time` has no runtime.
    tokio: Tokio,
    buffer: Box<[u8]>,
    /// The wait for the memory of the next message.
    admission: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
    /// The next heartbeat for lapin during that wait.
    heartbeat: Option<Pin<Box<<Tokio as Reactor>::Sleep>>>,
}

impl FilteredStream {
    fn new(stream: Socket, reactor: FilteringReactor) -> Self {
        let FilteringReactor { tokio, intake } = reactor;
        let filter = FrameFilter::new(MAX_EVENT_BYTES);
        let buffer = vec![0; READ].into();
        Self { stream, filter, intake, tokio, buffer, admission: None, heartbeat: None }
    }

    /// Waits for this much memory.
    fn poll_memory(
        &mut self,
        context: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Option<OwnedSemaphorePermit>> {
        let Some(budget) = &self.intake.budget else { return Poll::Ready(None) };
        let admission = self.admission.get_or_insert_with(|| {
            // Fewer than 2^32.
            let bytes = bytes.min(RECEIVED_BYTES) as u32;
            Box::pin(budget.clone().acquire_many_owned(bytes))
        });
        let memory = ready!(admission.as_mut().poll(context));
        self.admission = None;
        self.heartbeat = None;
        // It is never closed.
        Poll::Ready(memory.ok())
    }

    /// Waits until lapin needs a heartbeat. lapin closes a connection from which it reads nothing for two
    /// heartbeats, and those of the broker come after the message that waits for memory.
    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let heartbeat = self
            .heartbeat
            .get_or_insert_with(|| Box::pin(self.tokio.sleep(HEARTBEAT_WHILE_WAITING)));
        ready!(heartbeat.as_mut().poll(context));
        self.heartbeat = None;
        Poll::Ready(())
    }
}

impl AsyncRead for FilteredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        for _ in 0..READS {
            let output = this.filter.output();
            if !output.is_empty() {
                let count = output.len().min(buffer.len());
                buffer[..count].copy_from_slice(&output[..count]);
                this.filter.consume(count);
                return Poll::Ready(Ok(count));
            }
            if let Some(bytes) = this.filter.needs() {
                match this.poll_memory(context, bytes) {
                    Poll::Ready(memory) => {
                        if let Some(arrived) = this.filter.admit() {
                            this.intake.put(arrived, memory);
                        }
                    }
                    Poll::Pending => {
                        ready!(this.poll_heartbeat(context));
                        this.filter.add_heartbeat();
                    }
                }
            } else {
                let read = ready!(Pin::new(&mut this.stream).poll_read(context, &mut this.buffer))?;
                if read == 0 {
                    return Poll::Ready(Ok(0));
                }
                this.filter.push(&this.buffer[..read]);
            }
            for arrived in this.filter.discarded() {
                this.intake.put(arrived, None);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for FilteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
