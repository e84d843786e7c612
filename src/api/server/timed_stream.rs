//! A TCP stream that fails if its client does not take what is written to it in time. This bounds a
//! whole response, and a message of a WebSocket: both are flushed when they are written. A limit per
//! write would let a client take one byte at a time.

use std::{
    io::{Error, ErrorKind, IoSlice, Result},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::connections::Place;

pub(super) struct TimedStream {
    stream: TcpStream,
    limit: Duration,
    /// Kept here because a WebSocket takes the stream over.
    _place: Arc<Place>,
    /// Runs from the first write that found the socket full until everything is flushed.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, limit: Duration, place: Arc<Place>) -> Self {
        Self { stream, limit, _place: place, deadline: None }
    }

    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_pending() {
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.limit)));
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        match &self.deadline {
            Some(deadline) if deadline.deadline() <= Instant::now() => {
                Poll::Ready(Err(Error::from(ErrorKind::TimedOut)))
            }
            _ => written,
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.deadline = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{super::connections::Connections, *};

    fn timed(stream: TcpStream) -> TimedStream {
        let place = Connections::new(1).enter().unwrap();
        TimedStream::new(stream, Duration::from_millis(300), place)
    }

    #[tokio::test]
    async fn a_client_that_takes_little_at_a_time_is_too_slow_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = timed(listener.accept().await.unwrap().0);
        let (mut from, _to) = client.into_split();
        let drip = tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let began = Instant::now();
        let error = stream.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(10));
        drop(stream);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn time_runs_only_while_something_is_to_be_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = timed(listener.accept().await.unwrap().0);
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await
        });
        for _ in 0..3 {
            stream.write_all(&vec![0; 8 << 20]).await.unwrap();
            stream.flush().await.unwrap();
            sleep(Duration::from_millis(400)).await;
        }
        drop(stream);
        assert_eq!(reader.await.unwrap().unwrap(), 24 << 20);
    }
}
