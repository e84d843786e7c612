//! The live feed as a WebSocket.

use std::{collections::HashSet, time::Duration};

use axum::{
    Extension,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::{FutureExt, SinkExt};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Disconnect, FeedItem, Listener, Token};
use crate::api::{
    ApiState, Caller,
    problem::{Problem, Query},
};

/// Interval of pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A client that sends nothing for this long is disconnected.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may take to accept a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to answer the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Clients have nothing to send.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Buffer size of each direction. The library's default is 32 times as large.
const BUFFER_BYTES: usize = 4 * 1024;
/// Close code: the token has expired. Private use (RFC 6455 section 7.4.2), after HTTP's 401.
const UNAUTHORIZED: u16 = 4401;
/// Close code: what follows the token is no longer known; after HTTP's 410.
const GONE: u16 = 4410;

pub(in crate::api) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(feed))
}

/// Selects messages of the feed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FeedQuery {
    /// Only messages of these types, separated by commas, for example `reprogramacion`.
    #[param(example = "reprogramacion")]
    r#type: Option<String>,
    /// First the messages after the one with this token, then new ones.
    since: Option<String>,
}

/// Listen to the live feed
///
/// A WebSocket. Each message is an object with `type` and `token`. A message of type `ready` means
/// that everything up to its token was sent; it comes first if nothing was missed. Close codes:
/// 1001, usher stops; 1013, the client is too slow or the database does not answer (reconnect with
/// the last token); 4401, the token for the API has expired; 4410, what follows the token is no
/// longer known (reconnect without it).
#[utoipa::path(get, path = "/ws/notifications/", tag = "feed", params(FeedQuery), responses(
    (status = 101, description = "The feed"),
    Problem,
))]
async fn feed(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<FeedQuery>,
    upgrade: Result<WebSocketUpgrade, rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, "a WebSocket upgrade is required")
            .with(header::UPGRADE, HeaderValue::from_static("websocket"))
    })?;
    let since =
        wanted.since.map(|text| Token::parse(&text).ok_or_else(invalid_token)).transpose()?;
    let kinds = wanted.r#type.map(|kinds| kinds.split(',').map(ToOwned::to_owned).collect());
    let listener = api.feed.listen(since).ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the feed has too many listeners")
            .with(header::RETRY_AFTER, HeaderValue::from_static("30"))
    })?;
    let connection = Connection { listener, kinds, until: caller.until };
    let upgrade = upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES);
    Ok(upgrade.on_upgrade(|socket| connection.serve(socket)))
}

fn invalid_token() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "since: not a token of this feed")
}

struct Connection {
    listener: Listener,
    kinds: Option<HashSet<String>>,
    until: Option<Timestamp>,
}

impl Connection {
    async fn serve(mut self, mut socket: WebSocket) {
        let Some((code, reason)) = self.run(&mut socket).await else { return };
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let closing = async {
            socket.send(close).await?;
            // Otherwise a reset could destroy the close frame.
            while socket.recv().await.transpose()?.is_some() {}
            Ok::<(), axum::Error>(())
        };
        // The client may be gone.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Sends items until the feed ends. Returns why it disconnect, unless the client left.
    async fn run(&mut self, socket: &mut WebSocket) -> Option<(u16, &'static str)> {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard_at = tokio::time::Instant::now();
        let until = self.until.map(|until| until.duration_since(crate::clock::now()));
        let end = async move {
            match until {
                Some(rest) => tokio::time::sleep(rest.try_into().unwrap_or_default()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let sent = tokio::select! {
                biased;
                received = socket.recv() => match received {
                    // Anything received is a sign of life. The library answers pings and close
                    // frames.
                    Some(Ok(_)) => {
                        heard_at = tokio::time::Instant::now();
                        continue;
                    }
                    Some(Err(_)) | None => return None,
                },
                () = &mut end => return Some((UNAUTHORIZED, "the token has expired")),
                _ = ping.tick() => match heard_at.elapsed() < IDLE_TIMEOUT {
                    true => {
                        let ping = Message::Ping(axum::body::Bytes::new());
                        let sent = tokio::time::timeout(SEND_TIMEOUT, socket.send(ping)).await;
                        sent.map(|sent| sent.map(|()| None))
                    }
                    false => return None,
                },
                item = self.listener.next() => {
                    tokio::time::timeout(SEND_TIMEOUT, self.send_available(socket, item)).await
                }
            };
            match sent {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(disconnect))) => return Some(close_frame(disconnect)),
                // Disconnected, or the client accepts nothing.
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// Sends this item and all further ones that are available. Returns why the feed disconnect, if it
    /// did.
    async fn send_available(
        &mut self,
        socket: &mut WebSocket,
        item: Result<FeedItem, Disconnect>,
    ) -> Result<Option<Disconnect>, axum::Error> {
        let mut item = Some(item);
        while let Some(next) = item {
            match next {
                Ok(FeedItem::Ready(token)) => socket.feed(ready(&token)).await?,
                Ok(FeedItem::Message(message)) if self.wants(&message.kind) => {
                    socket.feed(Message::Text(message.text.as_str().into())).await?;
                }
                Ok(FeedItem::Message(_)) => {}
                Err(disconnect) => {
                    socket.flush().await?;
                    return Ok(Some(disconnect));
                }
            }
            // Also pending when the task has used up its budget.
            item = self.listener.next().now_or_never();
        }
        socket.flush().await?;
        Ok(None)
    }

    fn wants(&self, kind: &str) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(kind))
    }
}

fn ready(token: &Token) -> Message {
    Message::Text(json!({"type": "ready", "token": token.as_str()}).to_string().into())
}

fn close_frame(disconnect: Disconnect) -> (u16, &'static str) {
    match disconnect {
        Disconnect::Stopped => {
            (close_code::AWAY, "usher stops: reconnect with since and the last token")
        }
        Disconnect::Slow => {
            (close_code::AGAIN, "too slow: reconnect with since and the last token")
        }
        Disconnect::Unavailable => {
            (close_code::AGAIN, "the database gives no stream: reconnect later")
        }
        Disconnect::Gone => {
            (GONE, "what follows this token is no longer known: reconnect without it")
        }
    }
}
