//! A very small HTTP client: one request for each connection, blocking, for loopback only.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use url::Url;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Makes one request; a user and password in the URL become basic authentication.
pub(crate) fn request(method: &str, url: &str, json: Option<&str>) -> std::io::Result<Answer> {
    let url = Url::parse(url).map_err(std::io::Error::other)?;
    let host = url.host_str().unwrap_or("127.0.0.1");
    let mut stream = TcpStream::connect((host, url.port().unwrap_or(80)))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{method} {}", url.path());
    if let Some(query) = url.query() {
        head.push_str(&format!("?{query}"));
    }
    head.push_str(&format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"));
    if let Some(password) = url.password() {
        let login = BASE64_STANDARD.encode(format!("{}:{password}", url.username()));
        head.push_str(&format!("Authorization: Basic {login}\r\n"));
    }
    let body = json.unwrap_or_default();
    head.push_str("Content-Type: application/json\r\n");
    head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
