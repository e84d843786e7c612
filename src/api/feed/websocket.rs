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

use super::{Ended, Heard, Listener, Token};
use crate::api::{
    Caller, Shared,
    problem::{Problem, Query},
};

/// How often it is asked whether the other side is still there.
const PING: Duration = Duration::from_secs(30);
/// How long nothing may be heard of it.
const SILENCE: Duration = Duration::from_secs(75);
/// How long the other side may take to accept a message.
const SEND: Duration = Duration::from_secs(20);
/// How long it may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);
/// Nothing is expected of the other side.
const MOST_BYTES: usize = 1024;
/// Each side has a buffer of this size from the start; the library's own are 32 times as large.
const BUFFER: usize = 4 * 1024;
/// Close code: the token that let it in has ended. Private use (RFC 6455 7.4.2), after HTTP's 401.
const UNAUTHORIZED: u16 = 4401;
/// Close code: what follows the message's token is not known any more; after HTTP's 410.
const GONE: u16 = 4410;

pub(in crate::api) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(feed))
}

/// What of the feed somebody wants.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FeedQuery {
    /// Only messages of these types, separated by commas; `reprogramacion` is one of them.
    #[param(example = "reprogramacion")]
    r#type: Option<String>,
    /// What came after the message with this token, and then what comes.
    since: Option<String>,
}

/// Listen to what happens
///
/// A WebSocket. Each message is an object with `type` and `token`; the one of type `ready` says that
/// everything up to its token was told, and comes first where nothing was missed. Closed with 1001
/// when usher stops, 1013 when one is too slow or the database does not answer (come back with the
/// last token), 4401 when the token that let it in has ended, 4410 when what follows the token is not known any more (come back without).
#[utoipa::path(get, path = "/ws/notifications/", tag = "feed", params(FeedQuery), responses(
    (status = 101, description = "The feed"),
    Problem,
))]
async fn feed(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<FeedQuery>,
    upgrade: Result<WebSocketUpgrade, rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, "this is for a WebSocket")
            .with(header::UPGRADE, HeaderValue::from_static("websocket"))
    })?;
    let since = wanted.since.map(|text| Token::parse(&text).ok_or_else(no_token)).transpose()?;
    let kinds = wanted.r#type.map(|kinds| kinds.split(',').map(ToOwned::to_owned).collect());
    let listener = api.feed.listen(since).ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many listen to the feed")
            .with(header::RETRY_AFTER, HeaderValue::from_static("30"))
    })?;
    let conversation = Conversation { listener, kinds, until: caller.until };
    let upgrade = upgrade
        .max_message_size(MOST_BYTES)
        .max_frame_size(MOST_BYTES)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER);
    Ok(upgrade.on_upgrade(|socket| conversation.hold(socket)))
}

fn no_token() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "since: is no token of this feed")
}

struct Conversation {
    listener: Listener,
    kinds: Option<HashSet<String>>,
    until: Option<Timestamp>,
}

impl Conversation {
    async fn hold(mut self, mut socket: WebSocket) {
        let Some((code, reason)) = self.talk(&mut socket).await else { return };
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let farewell = async {
            socket.send(close).await?;
            // Until it has answered, or the connection would be reset under the last words.
            while socket.recv().await.transpose()?.is_some() {}
            Ok::<(), axum::Error>(())
        };
        // It may be gone already.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Tells all there is to tell; why it has ended, unless the other side has left.
    async fn talk(&mut self, socket: &mut WebSocket) -> Option<(u16, &'static str)> {
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard_at = tokio::time::Instant::now();
        let until = self.until.map(|until| until.duration_since(Timestamp::now()));
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
                came = socket.recv() => match came {
                    // Whatever it says is a sign of life. The library answers pings and goodbyes.
                    Some(Ok(_)) => {
                        heard_at = tokio::time::Instant::now();
                        continue;
                    }
                    Some(Err(_)) | None => return None,
                },
                () = &mut end => return Some((UNAUTHORIZED, "the token has ended")),
                _ = ping.tick() => match heard_at.elapsed() < SILENCE {
                    true => {
                        let ping = Message::Ping(axum::body::Bytes::new());
                        let sent = tokio::time::timeout(SEND, socket.send(ping)).await;
                        sent.map(|sent| sent.map(|()| None))
                    }
                    false => return None,
                },
                heard = self.listener.next() => {
                    tokio::time::timeout(SEND, self.pass_on(socket, heard)).await
                }
            };
            match sent {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(ended))) => return Some(goodbye(ended)),
                // Cut, or it does not take what it is sent.
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// Sends this and what else there is by now, all at once; gives why there will be no more.
    async fn pass_on(
        &mut self,
        socket: &mut WebSocket,
        heard: Result<Heard, Ended>,
    ) -> Result<Option<Ended>, axum::Error> {
        let mut heard = Some(heard);
        while let Some(now) = heard {
            match now {
                Ok(Heard::Ready(token)) => socket.feed(ready(&token)).await?,
                Ok(Heard::Message(message)) if self.wants(&message.kind) => {
                    socket.feed(Message::Text(message.text.as_str().into())).await?;
                }
                Ok(Heard::Message(_)) => {}
                Err(ended) => {
                    socket.flush().await?;
                    return Ok(Some(ended));
                }
            }
            // Pending as well when this task has had its turn.
            heard = self.listener.next().now_or_never();
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

fn goodbye(ended: Ended) -> (u16, &'static str) {
    match ended {
        Ended::Stopped => {
            (close_code::AWAY, "usher stops: come back with since and the last token")
        }
        Ended::Slow => (close_code::AGAIN, "too slow: come back with since and the last token"),
        Ended::Unavailable => {
            (close_code::AGAIN, "no stream from the database now: come back later")
        }
        Ended::Gone => (GONE, "what follows this token is not known any more: come back without"),
    }
}
