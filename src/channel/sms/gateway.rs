//! One request to the gateway on a connection of its own, so that it is known exactly how much of it was
//! sent.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};
use url::{Url, form_urlencoded};

use crate::config::Twilio;

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Longest wait that a gateway may ask for with `Retry-After`; after that it is asked again.
const MAX_WAIT: Duration = Duration::from_secs(3600);

type Body = Full<Bytes>;

/// An open connection.
pub(super) type Connection = SendRequest<Body>;

pub(super) struct Gateway {
    settings: Twilio,
    url: Url,
    host: String,
    server: String,
    tls: Option<TlsConnector>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    /// The gateway's error code, such as 21211.
    pub(super) code: Option<u64>,
    /// The error text, or the message's id and state.
    pub(super) text: String,
    /// From `Retry-After`.
    pub(super) retry_after: Option<Duration>,
}

pub(super) struct NoAnswer {
    pub(super) reason: String,
    /// Nothing of the request can have arrived at the gateway.
    pub(super) is_unsent: bool,
}

#[derive(Default, Deserialize)]
struct AnswerBody {
    sid: Option<String>,
    status: Option<serde_json::Value>,
    code: Option<u64>,
    message: Option<String>,
}

impl Gateway {
    pub(super) fn new(settings: Twilio) -> Result<Self, String> {
        let base = settings.base_url.trim_end_matches('/');
        let account = &settings.account_sid;
        let url = format!("{base}/2010-04-01/Accounts/{account}");
        let url = Url::parse(&url).map_err(|error| format!("TWILIO_BASE_URL: {error}"))?;
        let host = url.host_str().ok_or("TWILIO_BASE_URL: it names no host")?.to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let server = format!("{host}:{port}");
        let tls = if url.scheme() == "https" { Some(connector()?) } else { None };
        Ok(Self { settings, url, host, server, tls })
    }

    /// Host and port.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) async fn connect(&self) -> Result<Connection, String> {
        let connect = async {
            let stream = TcpStream::connect(&self.server).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else { return Ok(handshake(stream).await?) };
            // A host in brackets is an IPv6 address.
            let name = self.host.trim_matches(['[', ']']).to_owned();
            let stream = tls.connect(ServerName::try_from(name)?, stream).await?;
            anyhow::Ok(handshake(stream).await?)
        };
        match timeout(self.settings.timeout, connect).await {
            Ok(connected) => connected.map_err(|error| format!("connect: {error:#}")),
            Err(_) => Err(format!("connect: no answer within {:?}", self.settings.timeout)),
        }
    }

    /// The request that sends one message.
    pub(super) fn message(&self, to: &str, text: &str) -> Result<Request<Body>, String> {
        let from = self.settings.from.as_str();
        // A messaging service is a pool of senders.
        let sender = if from.starts_with("MG") { "MessagingServiceSid" } else { "From" };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("To", to).append_pair(sender, from).append_pair("Body", text);
        self.request(Method::POST, "/Messages.json", form.finish())
    }

    fn request(&self, method: Method, path: &str, form: String) -> Result<Request<Body>, String> {
        let Twilio { account_sid, auth_token, .. } = &self.settings;
        let login = STANDARD.encode(format!("{account_sid}:{}", auth_token.expose()));
        let host =
            self.url.port().map_or(self.host.clone(), |port| format!("{}:{port}", self.host));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.path()))
            .header(HOST, host)
            .header(AUTHORIZATION, format!("Basic {login}"))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(CONNECTION, "close");
        request.body(Full::from(form)).map_err(|error| error.to_string())
    }

    pub(super) async fn ask(
        &self,
        mut connection: Connection,
        request: Request<Body>,
    ) -> Result<Answer, NoAnswer> {
        let asked = async {
            let answer = connection.send_request(request).await.map_err(|error| NoAnswer {
                // The request was still waiting for the connection.
                is_unsent: error.is_canceled(),
                reason: format!("no answer: {error}"),
            })?;
            let status = answer.status();
            let retry_after = answer.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
            let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok());
            let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT));
            // The status is the answer; a body that can't be read is left out.
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let body: AnswerBody = serde_json::from_slice(&body).unwrap_or_default();
            Ok(Answer {
                status: status.as_u16(),
                code: body.code,
                text: body.text(status),
                retry_after,
            })
        };
        timeout(self.settings.timeout, asked).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:?}", self.settings.timeout);
            Err(NoAnswer { reason, is_unsent: false })
        })
    }

    /// Fetches the account.
    pub(super) async fn test(&self) -> Result<(), String> {
        let request = self.request(Method::GET, ".json", String::new())?;
        let answer = self.ask(self.connect().await?, request).await;
        let answer = answer.map_err(|error| error.reason)?;
        let is_known = (200..300).contains(&answer.status);
        is_known.then_some(()).ok_or_else(|| format!("answered {} {}", answer.status, answer.text))
    }
}

impl AnswerBody {
    fn text(self, status: StatusCode) -> String {
        let state = self.status.as_ref().and_then(serde_json::Value::as_str);
        match (self.message, self.sid, state) {
            (Some(message), ..) => message,
            (None, Some(sid), Some(state)) => format!("{sid} {state}"),
            (None, Some(sid), None) => sid,
            (None, None, _) => status.canonical_reason().unwrap_or_default().to_owned(),
        }
    }
}

async fn handshake<T>(stream: T) -> hyper::Result<Connection>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the request, which reports its errors.
    tokio::spawn(connection);
    Ok(sender)
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
