//! The bytes to and from the server, and the replies in them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::reply::{Malformed, Reply, ReplyReader};

/// How much is read at once.
const CHUNK: usize = 4096;

/// A connection, and what has come over it and is not read yet.
pub(super) struct Wire {
    stream: Stream,
    input: Vec<u8>,
    reader: ReplyReader,
}

/// Large, the encrypted one.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReply {
    #[error("{0}")]
    Disconnected(#[from] io::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The server speaks out of turn: whatever it says next can't be told apart from a reply.
    #[error("the server answered before it was asked: {0}")]
    Unasked(String),
}

/// What became of a body.
pub(super) enum Written {
    /// All of it left this host, the dot included.
    Whole,
    /// The server spoke before it had all.
    Interrupted,
}

impl Wire {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), input: Vec::new(), reader: ReplyReader::default() }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.tcp().local_addr()
    }

    pub(super) fn peer_addr(&self) -> Option<SocketAddr> {
        self.stream.tcp().peer_addr().ok()
    }

    /// The same connection, encrypted. What had come unencrypted does not get through
    /// (RFC 3207 section 6 and CVE-2011-0411).
    pub(super) async fn encrypted(
        self,
        tls: &TlsConnector,
        server: ServerName<'static>,
    ) -> io::Result<Self> {
        let Stream::Plain(stream) = self.stream else { return Ok(self) };
        let stream = tls.connect(server, stream).await?;
        Ok(Self {
            stream: Stream::Tls(Box::new(stream)),
            input: Vec::new(),
            reader: ReplyReader::default(),
        })
    }

    /// Sends lines and reads nothing.
    pub(super) async fn send(&mut self, lines: &str, limit: Duration) -> Result<(), NoReply> {
        self.expect_silence()?;
        let written = async {
            self.stream.write_all(lines.as_bytes()).await?;
            self.stream.flush().await
        };
        let written = timeout(limit, written).await;
        Ok(written.map_err(|_| NoReply::TimedOut(limit))??)
    }

    /// Sends one command and reads the reply to it.
    pub(super) async fn command(&mut self, line: &str, limit: Duration) -> Result<Reply, NoReply> {
        self.send(line, limit).await?;
        self.reply(limit).await
    }

    pub(super) async fn reply(&mut self, limit: Duration) -> Result<Reply, NoReply> {
        let read = timeout(limit, async {
            loop {
                if let Some(reply) = self.reader.take(&mut self.input)? {
                    return Ok(reply);
                }
                if poll_fn(|context| self.poll_input(context)).await? == 0 {
                    return Err(self.ended().into());
                }
            }
        });
        read.await.unwrap_or(Err(NoReply::TimedOut(limit)))
    }

    /// Sees that the server has said nothing that nobody asked for, and is still there.
    pub(super) fn expect_silence(&mut self) -> Result<(), NoReply> {
        if self.input.is_empty() {
            let mut context = Context::from_waker(std::task::Waker::noop());
            match self.poll_input(&mut context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(self.ended().into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        let said = super::reply::printable(&self.input);
        Err(NoReply::Unasked(said.trim_end_matches("\\x0d\\x0a").chars().take(200).collect()))
    }

    /// Whether something has come that is not read yet.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Writes the body and its dot, and stops where the server speaks before it has all of it.
    pub(super) async fn body(&mut self, text: &[u8]) -> io::Result<Written> {
        let mut written = 0;
        poll_fn(|context| {
            loop {
                let progress = match written < text.len() {
                    true => Pin::new(&mut self.stream).poll_write(context, &text[written..]),
                    // Encrypted, the last of it may still wait here.
                    false => match Pin::new(&mut self.stream).poll_flush(context) {
                        Poll::Ready(Ok(())) => return Poll::Ready(Ok(Written::Whole)),
                        other => other.map_ok(|()| 0),
                    },
                };
                match progress {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        // It takes no more: it may be saying why.
                        return match self.poll_input(context) {
                            Poll::Ready(Ok(0)) => Poll::Ready(Err(self.ended())),
                            Poll::Ready(Ok(_)) => Poll::Ready(Ok(Written::Interrupted)),
                            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                }
            }
        })
        .await
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut chunk);
        read.map_ok(|()| {
            self.input.extend_from_slice(chunk.filled());
            chunk.filled().len()
        })
    }

    fn ended(&self) -> io::Error {
        let reason = match self.input.is_empty() {
            true => "the server closed the connection".to_owned(),
            false => {
                let half = super::reply::printable(&self.input);
                let half: String = half.chars().take(200).collect();
                format!("the server closed the connection in the middle of a reply: {half}")
            }
        };
        io::Error::new(io::ErrorKind::UnexpectedEof, reason)
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
