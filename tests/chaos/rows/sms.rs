//! The rows for text messages: the gateway's answer takes the place of the reply to the dot.

use super::die_at;
use crate::{
    batch::Published,
    stage::Stage,
    support::{
        eventually,
        gateway::{Act, Gateway},
        world::text,
    },
};

const NUMBER: &str = "+14155550100";

/// A stage where a cancellation is only one text message.
async fn stage(on_unknown: &str) -> (Stage, Gateway) {
    let mut stage = Stage::new().await;
    let gateway = Gateway::start().await;
    let shipped = include_str!("../../../config/routes.toml");
    let mut routes = shipped.split("\n[[route]]\n");
    let queues = routes.next().expect("what stands before the routes");
    let route =
        routes.find(|route| route.contains("\"booking-cancelled-sms\"")).expect("the route");
    let route = route.replace("\"park\"", &format!("{on_unknown:?}"));
    let file = stage.folder().join("sms.toml");
    std::fs::write(&file, format!("{queues}\n[[route]]\n{route}")).expect("a file in the folder");
    for (name, value) in [
        ("ROUTES_FILE", file.display().to_string().as_str()),
        ("TWILIO_ACCOUNT_SID", "AC1"),
        ("TWILIO_AUTH_TOKEN", "token"),
        ("TWILIO_FROM", "Cine"),
        ("TWILIO_BASE_URL", &gateway.url()),
    ] {
        stage.set(name, value);
    }
    let body = serde_json::json!({
        "event_id": "c-1", "event_type": "booking.cancelled", "booking_id": "B", "user_phone": NUMBER,
    });
    let (id, body) = ("c-1".to_owned(), body.to_string());
    stage.publish(&[Published { id, body, deliveries: Vec::new() }]).await;
    (stage, gateway)
}

/// Checks that an instance settles it with this status, this many messages in `usher.parked` and
/// this many requests.
async fn settled(row: &str, stage: &Stage, gateway: &Gateway, expected: (&str, usize, usize)) {
    let mut instance = stage.start(&[]);
    let is_over = async || {
        let has_looked = instance.log().contains("event processed");
        (has_looked && stage.over().await == 1).then_some(())
    };
    eventually("it is over", is_over).await;
    assert_eq!(instance.terminate().await.code(), Some(0), "{row}: {}", instance.log());
    let records = stage.records().await;
    let last = records.iter().find(|record| text(record, "final") == "true").expect("an end");
    let parked = stage.broker().await.take_all("usher.parked").await.len();
    let status = text(last, "status");
    let found = (status.as_str(), parked, gateway.requests(NUMBER).len());
    assert_eq!(found, expected, "{row}: {records:#?}");
}

#[tokio::test]
async fn row_02_to_05_of_a_text_message() {
    let killed = async |point: &str, expected| {
        let (stage, gateway) = stage("park").await;
        die_at(&stage, point).await;
        settled(point, &stage, &gateway, expected).await;
    };
    tokio::join!(
        killed("after_render", ("sent", 0, 1)),
        killed("after_latch", ("unknown", 1, 0)),
        killed("after_reply", ("unknown", 1, 1)),
        killed("after_sent", ("sent", 0, 1)),
    );
}

#[tokio::test]
async fn row_03_the_gateway_has_a_text_message_and_has_not_answered() {
    let held = async |on_unknown: &str, expected| {
        let (stage, gateway) = stage(on_unknown).await;
        gateway.script(NUMBER, &[Act::Hold]);
        let mut instance = stage.start(&[]);
        gateway.until_asked(NUMBER, 1).await;
        instance.kill();
        settled(on_unknown, &stage, &gateway, expected).await;
    };
    tokio::join!(held("park", ("unknown", 1, 1)), held("resend", ("sent", 0, 2)));
}
