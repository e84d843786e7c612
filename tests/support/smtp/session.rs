//! One connection to the scripted server.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
};

use super::{
    Shared,
    script::{Act, Phase},
};
use crate::support::mail::Mail;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.state().sessions += 1;
        let session = Session::new(stream, shared.clone());
        // A client may disconnect at any time.
        tokio::spawn(async move { session.run().await.ok() });
    }
}

struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    shared: Arc<Shared>,
    from: String,
    parameters: String,
    /// The accepted recipient. usher sends each mail to one.
    to: Option<String>,
}

impl Session {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        let (reader, writer) = stream.into_split();
        let (from, parameters) = (String::new(), String::new());
        Self { reader: BufReader::new(reader), writer, shared, from, parameters, to: None }
    }

    /// Ends with an error when the script or the client ends the connection.
    async fn run(mut self) -> io::Result<()> {
        self.answer(Phase::Banner, "", "220 scripted.test ESMTP").await?;
        let mut hang_up = self.shared.hang_up.subscribe();
        loop {
            let line = tokio::select! {
                line = read_line(&mut self.reader) => line?,
                _ = hang_up.changed() => return Ok(()),
            };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let offers = self.offers();
                    self.answer(Phase::Ehlo, "", &offers).await?;
                }
                "MAIL" => {
                    self.from = path(&line);
                    self.parameters = parameters(&line);
                    self.to = None;
                    self.answer(Phase::Mail, "", "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    let to = path(&line);
                    if self.answer(Phase::Rcpt, &to, "250 2.1.5 ok").await? {
                        self.to = Some(to);
                    }
                }
                "DATA" => self.data().await?,
                "RSET" => {
                    self.to = None;
                    self.say("250 2.0.0 ok").await?;
                }
                "NOOP" => self.say("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.shared.state().quits += 1;
                    return self.say("221 2.0.0 bye").await;
                }
                _ => self.say("502 5.5.1 what?").await?,
            }
        }
    }

    fn offers(&self) -> String {
        let size = self.shared.offers.size.map(|size| format!("SIZE {size}"));
        let mut offers = vec!["scripted.test", "8BITMIME", "ENHANCEDSTATUSCODES"];
        offers.extend(size.as_deref());
        if self.shared.offers.pipelining {
            offers.push("PIPELINING");
        }
        if self.shared.offers.smtputf8 {
            offers.push("SMTPUTF8");
        }
        let last = offers.len() - 1;
        let lines = offers.iter().enumerate().map(|(index, offer)| {
            let sign = if index == last { ' ' } else { '-' };
            format!("250{sign}{offer}")
        });
        lines.collect::<Vec<_>>().join("\r\n")
    }

    async fn data(&mut self) -> io::Result<()> {
        let to = match (&self.to, self.shared.offers.data_without_recipient) {
            (Some(to), _) => to.clone(),
            (None, true) => String::new(),
            (None, false) => return self.say("554 5.5.1 no valid recipients").await,
        };
        if !self.answer(Phase::Data, &to, "354 go on").await? {
            return Ok(());
        }
        let raw = self.body(&to).await?;
        let (from, parameters) = (self.from.clone(), self.parameters.clone());
        let mail = Mail { from, parameters, to: to.clone(), raw };
        self.to = None;
        self.shared.state().received.push(mail.clone());
        if self.may_go_on(Phase::Dot, &to).await? {
            self.shared.state().accepted.push(mail);
            self.say("250 2.0.0 queued as 1").await?;
        }
        Ok(())
    }

    async fn body(&mut self, to: &str) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        loop {
            let line = read_line(&mut self.reader).await?;
            if line == b".\r\n" {
                return Ok(raw);
            }
            let is_first = raw.is_empty();
            // RFC 5321 4.5.2: the sender doubles a dot at the start of a line.
            raw.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            if is_first && !self.may_go_on(Phase::Body, to).await? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    /// Sends the script's reply or the usual one; returns whether it was the usual one.
    async fn answer(&mut self, phase: Phase, to: &str, usual: &str) -> io::Result<bool> {
        let usually = self.may_go_on(phase, to).await?;
        if usually {
            self.say(usual).await?;
        }
        Ok(usually)
    }

    /// Does what the script says; `false` if that was the reply.
    async fn may_go_on(&mut self, phase: Phase, to: &str) -> io::Result<bool> {
        let mut release = self.shared.release.subscribe();
        let act = {
            let mut state = self.shared.state();
            *state.reached.entry(phase).or_default() += 1;
            state.act(phase, to)
        };
        match act {
            None => Ok(true),
            Some(Act::Cut) => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Act::Delay(by)) => {
                tokio::time::sleep(by).await;
                Ok(true)
            }
            Some(Act::Hold) => {
                let _ = release.changed().await;
                Ok(true)
            }
            Some(Act::Reply(line)) => {
                self.say(&line).await?;
                match line.starts_with("421") {
                    true => Err(io::ErrorKind::ConnectionAborted.into()),
                    false => Ok(false),
                }
            }
        }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.writer.write_all(format!("{line}\r\n").as_bytes()).await
    }
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    match reader.read_until(b'\n', &mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

/// What stands between the angle brackets.
fn path(line: &str) -> String {
    let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map_or(String::new(), |(path, _)| path.to_owned())
}

/// What stands behind them.
fn parameters(line: &str) -> String {
    line.split_once("> ").map_or(String::new(), |(_, parameters)| parameters.to_owned())
}
