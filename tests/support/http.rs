//! A very small HTTP client: one request for each connection, blocking, for loopback only.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use url::Url;

/// A server's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(header, _)| header.eq_ignore_ascii_case(name));
        values.next().map_or("", |(_, value)| value)
    }

    /// The body, which has to be JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Makes one request; a user and password in the URL become basic authentication.
pub(crate) fn request(method: &str, url: &str, json: Option<&str>) -> std::io::Result<Answer> {
    request_with(method, url, &[], json)
}

/// The same with more headers; a `Host` replaces the URL's.
pub(crate) fn request_with(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    json: Option<&str>,
) -> std::io::Result<Answer> {
    let url = Url::parse(url).map_err(std::io::Error::other)?;
    let host = url.host_str().unwrap_or("127.0.0.1");
    let mut stream = TcpStream::connect((host, url.port().unwrap_or(80)))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{method} {}", url.path());
    if let Some(query) = url.query() {
        head.push_str(&format!("?{query}"));
    }
    head.push_str(" HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
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
