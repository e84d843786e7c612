//! A mail server that plays a dialogue: it does everything right but what a row says otherwise.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum At {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    /// A line after a 334.
    AuthLine,
    Mail,
    Rcpt,
    Data,
    Dot,
    Rset,
    Noop,
    /// The moment after the usual reply to the dot.
    Idle,
}

/// Bytes instead of the usual reply.
#[derive(Debug, Clone, Copy)]
pub(super) enum Say {
    Bytes(&'static [u8]),
    /// Nothing, and the connection ends.
    Hangup,
    /// These, and the connection ends.
    Last(&'static [u8]),
    /// Nothing, for ever.
    Nothing,
    Usual,
}

pub(super) struct Script {
    pub(super) capabilities: Vec<&'static str>,
    /// One after the other, the last one for ever.
    pub(super) replies: HashMap<At, Vec<Say>>,
    /// Every byte on its own.
    pub(super) in_pieces: bool,
    /// The next one gets 421.
    pub(super) max_connections: usize,
    /// The next one gets 452.
    pub(super) max_mails: usize,
}

#[derive(Default)]
pub(super) struct Heard {
    pub(super) lines: Vec<String>,
    pub(super) bodies: usize,
    pub(super) connections: usize,
    open: usize,
}

pub(super) struct Server {
    pub(super) port: u16,
    script: Arc<Mutex<Script>>,
    heard: Arc<Mutex<Heard>>,
}

impl Server {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (script, heard) = (Arc::new(Mutex::new(script)), Arc::<Mutex<Heard>>::default());
        let (of_all, heard_by_all) = (script.clone(), heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                lock(&heard_by_all).connections += 1;
                lock(&heard_by_all).open += 1;
                let (script, heard) = (of_all.clone(), heard_by_all.clone());
                tokio::spawn(async move {
                    let session = Session {
                        script,
                        heard: heard.clone(),
                        stream: BufReader::new(stream),
                        mails: 0,
                    };
                    session.run().await;
                    lock(&heard).open -= 1;
                });
            }
        });
        Self { port, script, heard }
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    /// Plays another dialogue from now on.
    pub(super) fn play(&self, replies: HashMap<At, Vec<Say>>) {
        lock(&self.script).replies = replies;
    }
}

struct Session {
    script: Arc<Mutex<Script>>,
    heard: Arc<Mutex<Heard>>,
    stream: BufReader<TcpStream>,
    mails: usize,
}

impl Session {
    async fn run(mut self) -> Option<()> {
        if lock(&self.heard).open > lock(&self.script).max_connections {
            self.write(b"421 4.7.0 too many connections\r\n").await?;
            return None;
        }
        self.reply(At::Greeting, "220 mx.test ESMTP").await?;
        loop {
            let line = self.line().await?;
            let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let all = [&["mx.test"][..], &lock(&self.script).capabilities].concat();
                    let last = all.len() - 1;
                    let lines = all.iter().enumerate().map(|(index, word)| {
                        format!("250{}{word}", if index == last { ' ' } else { '-' })
                    });
                    let lines = lines.collect::<Vec<_>>().join("\r\n");
                    self.reply(At::Ehlo, &lines).await?;
                }
                "HELO" => drop(self.reply(At::Helo, "250 mx.test").await?),
                "STARTTLS" => drop(self.reply(At::StartTls, "220 go ahead").await?),
                "AUTH" => self.auth(&line).await?,
                "MAIL" if self.mails >= lock(&self.script).max_mails => {
                    self.write(b"452 4.4.5 too many mails in this session\r\n").await?;
                }
                "MAIL" => drop(self.reply(At::Mail, "250 2.1.0 ok").await?),
                "RCPT" => drop(self.reply(At::Rcpt, "250 2.1.5 ok").await?),
                "DATA" => self.data().await?,
                "RSET" => drop(self.reply(At::Rset, "250 2.0.0 ok").await?),
                "NOOP" => drop(self.reply(At::Noop, "250 2.0.0 ok").await?),
                "QUIT" => {
                    self.write(b"221 bye\r\n").await?;
                    return None;
                }
                _ => self.write(b"500 what?\r\n").await?,
            }
        }
    }

    async fn auth(&mut self, line: &str) -> Option<()> {
        let usual = if line.contains("LOGIN") { "334 VXNlcm5hbWU6" } else { "235 ok" };
        let mut said = self.reply(At::Auth, usual).await?;
        let mut lines = 0;
        while said.starts_with(b"334") {
            self.line().await?;
            lines += 1;
            let usual =
                if line.contains("LOGIN") && lines == 1 { "334 UGFzc3dvcmQ6" } else { "235 ok" };
            said = self.reply(At::AuthLine, usual).await?;
        }
        Some(())
    }

    async fn data(&mut self) -> Option<()> {
        let said = self.reply(At::Data, "354 go on").await?;
        if !said.windows(4).any(|part| part.starts_with(b"354")) {
            return Some(());
        }
        loop {
            if self.line().await? == "." {
                break;
            }
        }
        // Each mail has an id of its own, so that a reply can be told for another mail's.
        let number = {
            let mut heard = lock(&self.heard);
            heard.bodies += 1;
            self.mails += 1;
            heard.bodies
        };
        self.reply(At::Dot, &format!("250 2.0.0 Ok: queued as {number}")).await?;
        let idle = self.say(At::Idle);
        if let Some(Say::Last(bytes)) = idle {
            self.write(bytes).await?;
            return None;
        }
        if let Some(Say::Bytes(bytes)) = idle {
            self.write(bytes).await?;
        }
        Some(())
    }

    /// What the row says instead of the usual.
    fn say(&self, at: At) -> Option<Say> {
        let mut script = lock(&self.script);
        let replies = script.replies.get_mut(&at)?;
        let say =
            if replies.len() > 1 { Some(replies.remove(0)) } else { replies.first().copied() };
        say.filter(|say| !matches!(say, Say::Usual))
    }

    async fn reply(&mut self, at: At, usual: &str) -> Option<Vec<u8>> {
        let bytes = match self.say(at) {
            None | Some(Say::Usual) => format!("{usual}\r\n").into_bytes(),
            Some(Say::Bytes(bytes)) => bytes.to_vec(),
            Some(Say::Hangup) => return None,
            Some(Say::Last(bytes)) => {
                self.write(bytes).await?;
                return None;
            }
            Some(Say::Nothing) => std::future::pending().await,
        };
        self.write(&bytes).await?;
        Some(bytes)
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let in_pieces = lock(&self.script).in_pieces;
        for piece in bytes.chunks(if in_pieces { 1 } else { bytes.len().max(1) }) {
            self.stream.write_all(piece).await.ok()?;
            self.stream.flush().await.ok()?;
            if in_pieces {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
        Some(())
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line).await.ok()?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        lock(&self.heard).lines.push(line.clone());
        (read > 0).then_some(line)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
