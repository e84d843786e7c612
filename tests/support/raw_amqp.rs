//! A publisher that writes what no client library writes: properties byte by byte.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use url::Url;

use super::DEADLINE;

/// Flags of the content header (AMQP 0-9-1, 4.2.6.1).
pub(crate) const HEADERS: u16 = 1 << 13;
pub(crate) const CORRELATION_ID: u16 = 1 << 10;
pub(crate) const MESSAGE_ID: u16 = 1 << 7;
pub(crate) const TIMESTAMP: u16 = 1 << 6;
pub(crate) const TYPE: u16 = 1 << 5;
pub(crate) const APP_ID: u16 = 1 << 3;

/// A connection with one channel that confirms.
pub(crate) struct RawPublisher(TcpStream);

/// A text of at most 255 bytes, whatever they are.
pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text].concat()
}

/// What stands behind its length of four bytes.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("no more").to_be_bytes(), bytes].concat()
}

impl RawPublisher {
    pub(crate) fn connect(url: &str) -> Self {
        let url: Url = url.parse().expect("a URL");
        let host = url.host_str().expect("a host");
        let stream = TcpStream::connect((host, url.port().unwrap_or(5672))).expect("RabbitMQ");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut this = Self(stream);
        this.0.write_all(b"AMQP\0\0\x09\x01").expect("written");
        this.until(10, 10);
        let login = format!("\0{}\0{}", url.username(), url.password().unwrap_or("guest"));
        let start_ok =
            [long(b""), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat();
        this.method(0, 10, 11, &start_ok);
        this.until(10, 30);
        this.method(0, 10, 31, &[&[0, 9][..], &131_072_u32.to_be_bytes(), &[0, 0]].concat());
        let vhost = url.path().trim_start_matches('/').replace("%2f", "/");
        this.method(0, 10, 40, &[short(vhost.as_bytes()), short(b""), vec![0]].concat());
        this.until(10, 41);
        this.method(1, 20, 10, &short(b""));
        this.until(20, 11);
        this.method(1, 85, 10, &[0]);
        this.until(85, 11);
        this
    }

    /// Publishes to a queue; the broker has it when this returns.
    pub(crate) fn publish(&mut self, queue: &str, flags: u16, properties: &[u8], body: &[u8]) {
        let publish = [&[0, 0][..], &short(b""), &short(queue.as_bytes()), &[0]].concat();
        self.method(1, 60, 40, &publish);
        let header = [
            &[0, 60, 0, 0][..],
            &(body.len() as u64).to_be_bytes(),
            &flags.to_be_bytes(),
            properties,
        ];
        self.frame(2, 1, &header.concat());
        for part in body.chunks(100_000) {
            self.frame(3, 1, part);
        }
        self.until(60, 80);
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat();
        self.0.write_all(&frame).expect("written");
    }

    /// Reads up to this method.
    fn until(&mut self, class: u16, method: u16) {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).expect("a frame");
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload).expect("its payload");
            let is = [class.to_be_bytes(), method.to_be_bytes()].concat();
            match head[0] {
                1 if payload.starts_with(&is) => return,
                1 if payload.starts_with(&[0, 10, 0, 50])
                    || payload.starts_with(&[0, 20, 0, 40]) =>
                {
                    panic!("refused: {}", String::from_utf8_lossy(&payload[6..]))
                }
                _ => {}
            }
        }
    }
}
