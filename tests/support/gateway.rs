//! A scripted gateway for text messages: the part of Twilio's REST API that usher uses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::eventually;

/// A running gateway.
pub(crate) struct Gateway {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    script: HashMap<String, Vec<Act>>,
}

/// What happens instead of the usual answer, once for each.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// This status, a header line or none, and this body.
    Answer(u16, &'static str, &'static str),
    /// The request is read, and the connection ends without an answer.
    Cut,
    /// The request is read and never answered.
    Hold,
}

/// One request for a message.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) form: HashMap<String, String>,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Scripts the next messages to this number.
    pub(crate) fn script(&self, number: &str, acts: &[Act]) {
        let mut state = self.state.lock().expect("no panic");
        state.script.insert(number.to_owned(), acts.to_vec());
    }

    /// The requests for messages to this number.
    pub(crate) fn requests(&self, number: &str) -> Vec<Request> {
        let state = self.state.lock().expect("no panic");
        state.requests.iter().filter(|request| request.form["To"] == number).cloned().collect()
    }

    pub(crate) async fn until_asked(&self, number: &str, count: usize) -> Vec<Request> {
        eventually(&format!("{count} messages to {number}"), async || {
            let requests = self.requests(number);
            (requests.len() >= count).then_some(requests)
        })
        .await
    }
}

/// One request; clients that only connect are fine.
async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let mut found = lines.iter().filter_map(|line| line.split_once(": "));
        let found = found.find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let request = Request {
        at: Instant::now(),
        path: lines.first()?.clone(),
        authorization: header("authorization"),
        form,
    };
    let act = {
        let mut state = state.lock().expect("no panic");
        let script = request.form.get("To").and_then(|to| state.script.get_mut(to));
        let act = script.filter(|acts| !acts.is_empty()).map(|acts| acts.remove(0));
        state.requests.push(request);
        act
    };
    let usual = Act::Answer(201, "", r#"{"sid": "SM1", "status": "queued"}"#);
    let (status, header, body) = match act.unwrap_or(usual) {
        Act::Answer(status, header, body) => (status, header, body),
        Act::Cut => return None,
        Act::Hold => std::future::pending().await,
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} X\r\n{header}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.get_mut().write_all(answer.as_bytes()).await.ok()
}
