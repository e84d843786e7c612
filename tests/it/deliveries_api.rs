//! Deliveries by the API: found, shown, and their mail rendered again.

use serde_json::{Value, json};

use crate::support::{
    events::{ACCOUNTS, BOOKINGS, booking, with},
    eventually,
    smtp::{Phase, SmtpServer},
    usher::Usher,
    world::{World, text},
};

fn get(usher: &Usher, path: &str) -> Value {
    let answer = usher.get(&format!("/api/v1/deliveries{path}"));
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

#[tokio::test]
async fn deliveries_are_found_by_booking_recipient_event_and_message_id() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    for name in ["one", "two"] {
        let event = booking(name, &format!("{name}@example.com"));
        let event = with(event, &json!({"booking_id": format!("B-{name}")}));
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    let records = world.until_records(2).await;
    let one = records.iter().find(|record| text(record, "event.id") == "one").expect("one");
    let message_id = text(one, "message_id").replace('<', "%3C").replace('>', "%3E");
    for query in [
        "booking=B-one",
        "recipient=One@example.com",
        "event=one",
        &format!("message_id={message_id}"),
        &format!("booking=B-one&message_id={message_id}"),
    ] {
        let found = get(&usher, &format!("?{query}"));
        let results = found["results"].as_array().expect("a list");
        assert_eq!(results.len(), 1, "{query}: {found}");
        assert_eq!(results[0]["id"], text(one, "delivery_id").as_str(), "{query}");
        assert_eq!((&found["more"], &results[0]["status"]), (&json!(false), &json!("sent")));
    }
    for query in
        ["message_id=%3Cof-another@example.com%3E", "event=three", "booking=B-one&event=two"]
    {
        assert_eq!(get(&usher, &format!("?{query}"))["results"], json!([]), "{query}");
    }
    assert_eq!(usher.get("/api/v1/deliveries").status, 422, "not all of them");
}

#[tokio::test]
async fn a_delivery_is_shown_with_its_replies_and_what_operators_did() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    smtp.at(Phase::Rcpt).once().reply("550 5.1.1 <b>no such user</b>");
    world.broker.publish(BOOKINGS, booking("one", "one@example.com").to_string()).await;
    let id = text(&world.until_records(1).await[0], "delivery_id");
    let is_there = async || (world.broker.depth("usher.dead").await == 1).then_some(());
    eventually("it is in its queue", is_there).await;
    let body = json!({"ids": [id], "reason": "mailbox made"}).to_string();
    let done = usher.ask("POST", "/api/v1/dead-letters/dead/replay", &[], Some(&body));
    assert_eq!(done.json()["results"][0]["outcome"], "done", "{done:?}");
    world.until_records(2).await;
    let shown = get(&usher, &format!("/{id}"));
    let attempts = shown["attempts"].as_array().expect("a list");
    let told: Vec<_> = attempts.iter().map(|one| (&one["number"], &one["status"])).collect();
    assert_eq!(told, [(&json!(1), &json!("failed")), (&json!(2), &json!("sent"))]);
    let reply = &attempts[0]["reply"];
    assert_eq!((&reply["code"], &reply["command"]), (&json!(550), &json!("RCPT")));
    assert!(reply["text"].as_str().expect("text").contains("<b>no such user</b>"), "{reply}");
    let action = &shown["actions"][0];
    assert_eq!((&action["action"], &action["reason"]), (&json!("replay"), &json!("mailbox made")));
    assert_eq!(usher.get(&format!("/api/v1/deliveries/{}", "0".repeat(32))).status, 404);
}

#[tokio::test]
async fn a_mail_is_shown_in_a_frame_that_can_do_nothing() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    let evil = json!({"movie_title": "<script>alert(1)</script>"});
    let event = with(booking("one", "one@example.com"), &evil);
    world.broker.publish(BOOKINGS, event.to_string()).await;
    let id = text(&world.until_records(1).await[0], "delivery_id");
    let mail = get(&usher, &format!("/{id}/mail"));
    assert_eq!(mail["differs"], Value::Null);
    let framed = usher.get(&format!("/api/v1/deliveries/{id}/mail.html"));
    assert_eq!(framed.body, mail["html"].as_str().expect("HTML"));
    assert!(!framed.body.contains("<script"), "{}", framed.body);
    let policy = framed.header("content-security-policy");
    for part in ["sandbox;", "default-src 'none';", "frame-ancestors 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("allow-") && !policy.contains("http"), "{policy}");
    assert_eq!(framed.header("cache-control"), "no-store");
}

#[tokio::test]
async fn the_mail_of_a_route_with_secrets_is_not_shown() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let usher = world.usher().smtp(&smtp).set("HTTP_API", "on").start().await;
    let event = json!({
        "event_id": "code", "event_type": "auth.two_factor_code", "email": "bob@example.com",
        "full_name": "Bob", "verification_code": "918273",
    });
    world.broker.publish(ACCOUNTS, event.to_string()).await;
    let record = world.until_records(1).await.remove(0);
    assert_eq!(text(&record, "status"), "sent", "{record:?}");
    let id = text(&record, "delivery_id");
    for path in ["mail", "mail.html"] {
        let refused = usher.get(&format!("/api/v1/deliveries/{id}/{path}"));
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.body.contains("has secrets"), "{refused:?}");
    }
    let shown = usher.get(&format!("/api/v1/deliveries/{id}"));
    assert!(!shown.body.contains("918273"), "{shown:?}");
}
