//! The live feed, as its listeners receive it.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::dead_letters::run;
use crate::dkim::{RSA, make_key};
use crate::http::{jwt, taking_jwt};
use crate::receipts::{dsn, ingest};
use crate::roles::Server;
use crate::support::{
    DEADLINE,
    events::{BOOKINGS, booking, rescheduled, with},
    eventually,
    smtp::SmtpServer,
    usher::{Builder, Usher},
    world::World,
};

const TOKEN: &str = "a-token-of-20-letters";

/// A listener.
pub(crate) struct Listener(WebSocketStream<TcpStream>);

impl Listener {
    /// Connects with this query and a token; waits until the feed is ready.
    pub(crate) async fn start(usher: &Usher, query: &str) -> Self {
        let bearer = [("authorization", format!("Bearer {TOKEN}"))];
        Self(connect(usher, query, &bearer).await.expect("a WebSocket"))
    }

    /// The next message.
    async fn next(&mut self) -> Value {
        match self.event().await {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Waits until it has caught up; returns the token.
    pub(crate) async fn ready(&mut self) -> String {
        let message = self.next().await;
        assert_eq!(message["type"], "ready", "{message}");
        token(&message)
    }

    /// The close code, and the messages before it.
    async fn closed(&mut self) -> (Vec<Value>, u16) {
        let mut before = Vec::new();
        loop {
            match self.event().await {
                Message::Text(text) => before.push(serde_json::from_str(&text).expect("JSON")),
                Message::Close(frame) => return (before, frame.expect("a reason").code.into()),
                other => panic!("expected a goodbye, got {other:?}"),
            }
        }
    }

    async fn event(&mut self) -> Message {
        loop {
            let event = tokio::time::timeout(DEADLINE, self.0.next()).await;
            match event.expect("within the deadline").expect("not cut").expect("a message") {
                Message::Ping(_) => {}
                event => return event,
            }
        }
    }
}

async fn connect(
    usher: &Usher,
    query: &str,
    headers: &[(&'static str, String)],
) -> Result<WebSocketStream<TcpStream>, Box<tungstenite::Error>> {
    let url = format!("ws://{}/ws/notifications/{query}", usher.address());
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header"));
    }
    let stream = TcpStream::connect(usher.address()).await.expect("it listens");
    Ok(client_async(request, stream).await.map_err(Box::new)?.0)
}

/// The status of a refusal.
async fn refused(usher: &Usher, query: &str, headers: &[(&'static str, String)]) -> u16 {
    match connect(usher, query, headers).await.map(drop).map_err(|error| *error) {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn token(message: &Value) -> String {
    message["token"].as_str().expect("a token").to_owned()
}

fn about(id: &str) -> Value {
    with(booking(id, "ana@example.com"), &json!({"booking_id": id}))
}

fn settings(world: &World, smtp: &SmtpServer) -> Builder {
    world.usher().smtp(smtp).set("API_TOKENS", TOKEN)
}

#[tokio::test]
async fn a_reschedule_reaches_the_listeners_of_every_instance_in_the_documented_form() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = settings(&world, &smtp).set("ADMIN_EMAILS", "team@cine.test");
    let ushers = [settings.start().await, settings.start().await];
    let mut everything = Listener::start(&ushers[0], "").await;
    let mut some = Listener::start(&ushers[1], "?type=reprogramacion").await;
    everything.ready().await;
    some.ready().await;
    for event in [
        rescheduled("evt-1", "grace@example.com"),
        about("evt-2"),
        with(rescheduled("evt-3", "grace@example.com"), &json!({"booking_id": "BOOK-3"})),
    ] {
        world.broker.publish(BOOKINGS, event.to_string()).await;
        // Fixes their order.
        let id = event["event_id"].as_str().expect("an id");
        world.until_records_of(&[id]).await;
    }
    let first = some.next().await;
    let told = |field: &str| first[field].as_str().unwrap_or_default();
    let fields =
        ["type", "reserva_id", "cliente_nombre", "fecha_anterior", "fecha_nueva", "estado"];
    assert_eq!(
        fields.map(told),
        [
            "reprogramacion",
            "BOOK-2",
            "Grace O'Kafor",
            "2026-12-15T19:30:00-05:00",
            "2026-12-20T20:00:00-05:00",
            "sent"
        ]
    );
    assert!(!first.to_string().contains("example.com"), "{first}");
    assert_eq!(some.next().await["reserva_id"], "BOOK-3", "and nothing else before it");
    let mut all = Vec::new();
    for _ in 0..5 {
        let message = everything.next().await;
        assert_eq!(message["estado"], "sent");
        all.push(message["type"].as_str().expect("a type").to_owned());
    }
    all.sort();
    let copies = "booking.rescheduled";
    assert_eq!(all, ["booking.confirmed", copies, copies, "reprogramacion", "reprogramacion"]);
}

#[tokio::test]
async fn who_was_erased_has_no_name_in_the_memory_of_the_feed() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = settings(&world, &smtp);
    let usher = settings.start().await;
    let mut listener = Listener::start(&usher, "").await;
    let in_oplog = listener.ready().await;
    world.broker.publish(BOOKINGS, about("evt-0").to_string()).await;
    let in_memory = token(&listener.next().await);
    world.broker.publish(BOOKINGS, rescheduled("evt-1", "grace@example.com").to_string()).await;
    assert_eq!(listener.next().await["cliente_nombre"], "Grace O'Kafor");
    let erase =
        ["audit", "erase", "--recipient", "grace@example.com", "--reason", "asked", "--yes"];
    run(&settings, 0, &erase).await;
    for since in [in_memory, in_oplog] {
        eventually("the name is forgotten", async || {
            let mut late = Listener::start(&usher, &format!("?since={since}")).await;
            let mut message = late.next().await;
            while message["reserva_id"] != "BOOK-2" {
                message = late.next().await;
            }
            message["cliente_nombre"].is_null().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_listener_that_reconnects_gets_every_missed_message_once() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = settings(&world, &smtp);
    let mut usher = settings.start().await;
    let mut listener = Listener::start(&usher, "").await;
    let mut since = listener.ready().await;
    let mut heard = Vec::new();
    let publish = async |from: usize, to: usize| {
        for number in from..to {
            let event = about(&format!("evt-{number}"));
            world.broker.publish(BOOKINGS, event.to_string()).await;
        }
    };
    let ids = |messages: &[Value]| {
        let mut ids: Vec<String> =
            messages.iter().map(|message| message["reserva_id"].to_string()).collect();
        ids.sort();
        ids
    };
    let expected = |count: usize| {
        let mut ids: Vec<String> = (0..count).map(|number| format!("\"evt-{number}\"")).collect();
        ids.sort();
        ids
    };
    // Listen, disconnect in the middle, reconnect to the same instance.
    publish(0, 10).await;
    for _ in 0..4 {
        heard.push(listener.next().await);
        since = token(&heard[heard.len() - 1]);
    }
    drop(listener);
    let mut listener = Listener::start(&usher, &format!("?since={since}")).await;
    while ids(&heard) != expected(10) {
        let message = listener.next().await;
        if message["type"] != "ready" {
            since = token(&message);
            heard.push(message);
        }
        assert!(heard.len() <= 10, "{heard:#?}");
    }
    // The instance ends: what happens now is in no instance's memory.
    usher.signal("TERM");
    let (rest, code) = listener.closed().await;
    assert_eq!((rest.iter().filter(|one| one["type"] != "ready").count(), code), (0, 1001));
    assert!(usher.ended().await.success());
    let other = settings.clone().unset("API_TOKENS").start().await;
    publish(10, 20).await;
    world.until_records(20).await;
    drop(other);
    usher = settings.start().await;
    let mut listener = Listener::start(&usher, &format!("?since={since}")).await;
    publish(20, 30).await;
    while ids(&heard) != expected(30) {
        let message = listener.next().await;
        if message["type"] != "ready" {
            heard.push(message);
        }
        assert!(heard.len() <= 30, "{heard:#?}");
    }
    // By now it receives what the others receive.
    publish(30, 31).await;
    let mut last = listener.next().await;
    if last["type"] == "ready" {
        last = listener.next().await;
    }
    assert_eq!(last["reserva_id"], "evt-30");
}

/// The position of a stream of the records alone, as an earlier version gave it to its clients.
async fn token_of_an_earlier_version(world: &World) -> String {
    let stream = world.collection("deliveries").watch().await.expect("a stream");
    let token = stream.resume_token().expect("a token");
    let token = serde_json::to_value(token).expect("a token");
    token["_data"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_receipt_is_told_as_news_of_its_delivery_also_after_an_older_token() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = settings(&world, &smtp).set("BOUNCE_ADDRESS", "bounces@bounces.test");
    let usher = settings.start().await;
    let older = token_of_an_earlier_version(&world).await;
    let mut listener = Listener::start(&usher, "").await;
    listener.ready().await;
    let moved = rescheduled("evt-1", "grace@example.com");
    world.broker.publish(BOOKINGS, moved.to_string()).await;
    let sent = listener.next().await;
    let mail = smtp.until_accepted(1).await.remove(0);
    let report = dsn(&mail.from, "5.1.1", "550 5.1.1 User unknown");
    assert_eq!(ingest(&settings, &report).await.0, Some(0));
    let bounced = listener.next().await;
    assert_eq!((&bounced["estado"], &bounced["rebote"]), (&json!("bounced"), &json!("hard")));
    assert_eq!((&bounced["type"], &bounced["id"]), (&json!("booking.rescheduled"), &sent["id"]));
    assert_eq!(bounced["reserva_id"], sent["reserva_id"]);
    assert!(!bounced.to_string().contains("Grace"), "{bounced}");

    // Not in the memory of another instance.
    let other = settings.start().await;
    let heard = async |since: &str| {
        let mut late = Listener::start(&other, &format!("?since={since}")).await;
        let mut heard = Vec::new();
        loop {
            let message = late.next().await;
            if message["type"] == "ready" {
                return heard;
            }
            heard.push(message);
        }
    };
    assert_eq!(heard(&older).await, [sent.clone(), bounced.clone()]);
    assert_eq!(heard(&token(&sent)).await, std::slice::from_ref(&bounced));
    assert_eq!(heard(&token(&bounced)).await, Vec::<Value>::new());
}

#[tokio::test]
async fn the_feed_refuses_strangers_and_bad_requests_and_takes_a_cookie() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = settings(&world, &smtp).start().await;
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let cookie = ("cookie", format!("usher_token={TOKEN}"));
    let origin = |host: &str| ("origin", format!("http://{host}"));
    assert_eq!(refused(&usher, "", &[]).await, 401);
    assert_eq!(refused(&usher, "", &[bearer("another-token-of-20")]).await, 401);
    assert_eq!(refused(&usher, "", &[cookie.clone(), origin("example.com")]).await, 403);
    assert_eq!(refused(&usher, "?since=nonsense", &[bearer(TOKEN)]).await, 400);
    assert_eq!(usher.get("/ws/notifications/").status, 401);

    let own = [cookie, origin(usher.address())];
    let mut page = Listener(connect(&usher, "", &own).await.expect("a WebSocket"));
    page.ready().await;
    let mut lost = Listener::start(&usher, "?since=82aa").await;
    assert_eq!(lost.closed().await, (Vec::new(), 4410));
    // Listeners must not send.
    page.0.send(Message::Text("x".repeat(2000).into())).await.expect("it is sent");
    assert!(!matches!(page.0.next().await, Some(Ok(Message::Text(_)))));
}

#[tokio::test]
async fn a_listener_is_disconnected_when_its_token_expires() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let (private, public) = make_key(world.folder(), &RSA);
    let usher = taking_jwt(settings(&world, &smtp), &public).start().await;
    let by = |ends_in| [("authorization", format!("Bearer {}", jwt("RS256", &private, ends_in)))];
    let mut lasting = Listener(connect(&usher, "", &by(600)).await.expect("a WebSocket"));
    // Clocks may differ by a minute.
    let mut ending = Listener(connect(&usher, "", &by(-50)).await.expect("a WebSocket"));
    ending.ready().await;
    let listeners = async |count: usize| {
        let line = format!("usher_feed_listeners {count}");
        eventually(&line, async || {
            usher.get("/metrics").body.lines().any(|told| told == line).then_some(())
        })
        .await;
    };
    listeners(2).await;
    assert_eq!(ending.closed().await, (Vec::new(), 4401));
    listeners(1).await;
    assert_eq!(refused(&usher, "", &by(-61)).await, 401);
    lasting.ready().await;
    world.broker.publish(BOOKINGS, about("evt-1").to_string()).await;
    assert_eq!(lasting.next().await["evento"], "booking.confirmed");
}

#[tokio::test]
async fn without_change_streams_there_is_no_feed_and_the_rest_works() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let _server = Server::start(world.folder(), free, &["--standalone"]).await;
    let uri = format!("mongodb://127.0.0.1:{free}/{}", world.name());
    let usher = settings(&world, &smtp).set("MONGODB_URI", uri).start().await;
    for _ in 0..2 {
        assert_eq!(Listener::start(&usher, "").await.closed().await, (Vec::new(), 1013));
    }
    world.broker.publish(BOOKINGS, about("evt-1").to_string()).await;
    smtp.until_accepted(1).await;
    let said = usher.log();
    assert_eq!(said.matches("need a replica set").count(), 1, "{said}");
}

/// What `benches/listeners` prints.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_thousand_listen_while_mail_flows() {
    const LISTENERS: usize = 1000;
    const MAILS: usize = 1000;
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = settings(&world, &smtp).set("PREFETCH", "64").start().await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", usher.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    // Everything that grows once has grown.
    for number in 0..200 {
        world.broker.publish(BOOKINGS, about(&format!("warm-{number}")).to_string()).await;
    }
    smtp.until_accepted(200).await;
    let before = resident();
    let mut tasks = Vec::new();
    for _ in 0..LISTENERS {
        let mut listener = Listener::start(&usher, "").await;
        listener.ready().await;
        tasks.push(tokio::spawn(async move {
            let (mut seen, mut took) = (std::collections::HashSet::new(), Vec::new());
            while seen.len() < MAILS {
                let Message::Text(text) = listener.event().await else { panic!("it was let go") };
                // To read all of it takes longer than to send it.
                if text.contains(r#""reserva_id":"evt-"#) {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    let at: jiff::Timestamp =
                        message["timestamp"].as_str().unwrap().parse().unwrap();
                    took.push(jiff::Timestamp::now().duration_since(at).as_millis());
                    assert!(seen.insert(message["reserva_id"].to_string()), "twice: {message}");
                }
            }
            took
        }));
    }
    let with_all = resident();
    let began = std::time::Instant::now();
    for number in 0..MAILS {
        world.broker.publish(BOOKINGS, about(&format!("evt-{number}")).to_string()).await;
    }
    smtp.until_accepted(200 + MAILS).await;
    let sent = began.elapsed();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("all was heard, each once"));
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    eprintln!(
        "{LISTENERS} listeners heard each of {MAILS} mails once; {:.0} mails/s; from the record to the listener p50 {} ms, \
         p99 {} ms, max {} ms; resident {before} MiB before, {with_all} MiB with all listening, {} MiB at the end",
        MAILS as f64 / sent.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        resident(),
    );
}
