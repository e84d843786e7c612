//! Dead letters, poison and parked mail: messages that wait for an operator.

use crate::support::{
    events::{BOOKINGS, booking},
    eventually,
    smtp::{Phase, SmtpServer},
    usher::Builder,
    world::{World, brief, text},
};

/// Runs a command, checks its exit code and gives what it printed.
pub(crate) async fn run(usher: &Builder, code: i32, arguments: &[&str]) -> String {
    let output = usher.output(arguments).await;
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
    printed
}

#[tokio::test]
async fn a_dead_letter_is_listed_shown_and_replayed_once_its_cause_is_gone() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().reply("550 5.1.1 no such user");
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    world.broker.publish(BOOKINGS, booking("e-1", "one@example.com").to_string()).await;
    let records = world.until_records(1).await;
    let id = text(&records[0], "delivery_id");

    let listed = run(&settings, 0, &["dead-letters", "list"]).await;
    assert!(listed.contains(&id) && listed.contains("no such user"), "{listed}");
    let shown = run(&settings, 0, &["dead-letters", "show", &id, "--json"]).await;
    assert!(shown.contains("\"code\":550"), "{shown}");
    let replay = ["dead-letters", "replay", &id, "--reason", "mailbox made", "--by", "ana"];
    let tried = run(&settings, 0, &replay).await;
    assert!(tried.contains("nothing was done"), "{tried}");
    eventually("it is back", async || (world.broker.depth("usher.dead").await == 1).then_some(()))
        .await;

    run(&settings, 0, &[&replay[..], &["--yes"]].concat()).await;
    smtp.until_accepted(1).await;
    let records = world.until_records(2).await;
    assert_eq!(brief(&records), ["one@example.com 1 failed refused", "one@example.com 2 sent "]);
    assert!(run(&settings, 0, &["dead-letters", "list"]).await.contains("nothing in usher.dead"));
    let actions = world.actions().await;
    assert_eq!(actions.len(), 1);
    for (field, value) in
        [("action", "replay"), ("by", "ana"), ("reason", "mailbox made"), ("target", id.as_str())]
    {
        assert_eq!(text(&actions[0], field), value);
    }
    let again = run(&settings, 65, &[&replay[..], &["--yes"]].concat()).await;
    assert!(again.contains("is not in usher.dead"), "{again}");
}

#[tokio::test]
async fn parked_mail_is_sent_again_or_dismissed_by_command_only() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        smtp.at(Phase::Dot).once().cut();
        let event = booking(name, &format!("{name}@example.com")).to_string();
        world.broker.publish(BOOKINGS, event).await;
        let records = world.until_records(ids.len() + 1).await;
        let parked = records.iter().find(|record| text(record, "event.id") == name).unwrap();
        assert_eq!(text(parked, "status"), "unknown");
        ids.push(text(parked, "delivery_id"));
    }
    let listed = run(&settings, 0, &["parked", "list", "--since", "1h"]).await;
    assert!(ids.iter().all(|id| listed.contains(id)), "{listed}");

    run(&settings, 0, &["parked", "resend", &ids[0], "--reason", "never arrived", "--yes"]).await;
    run(&settings, 0, &["parked", "dismiss", &ids[1], "--reason", "it arrived", "--yes"]).await;
    let records = world.until_records(3).await;
    let last = records.iter().find(|record| text(record, "attempt") == "2").unwrap();
    assert_eq!((text(last, "delivery_id"), text(last, "status")), (ids[0].clone(), "sent".into()));
    assert!(run(&settings, 0, &["parked", "list"]).await.contains("nothing in usher.parked"));
    world.assert_queues_empty(&["usher.parked", BOOKINGS]).await;
    let actions: Vec<_> = world.actions().await.iter().map(|one| text(one, "action")).collect();
    assert_eq!(actions, ["resend", "dismiss"]);
}

#[tokio::test]
async fn mail_that_turned_out_sent_is_never_sent_again() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    smtp.at(Phase::Dot).once().cut();
    world.broker.publish(BOOKINGS, booking("e-1", "one@example.com").to_string()).await;
    let records = world.until_records(1).await;
    let id = text(&records[0], "delivery_id");
    // The record of an owner that was paused, and that had read the reply.
    world.copy_record_as_sent(&records[0]).await;
    let resend = ["parked", "resend", &id, "--reason", "impatience", "--yes"];
    let refused = run(&settings, 65, &resend).await;
    assert!(refused.contains("refused: it was sent"), "{refused}");
    assert_eq!(world.broker.take_one("usher.parked").await.header("usher-delivery-id"), id);
}

#[tokio::test]
async fn poison_goes_back_to_where_it_came_from() {
    let world = World::new().await;
    let settings = world.usher();
    let _usher = settings.start().await;
    world
        .broker
        .publish(BOOKINGS, r#"{"event_id": "e-1", "event_type": "booking.exploded"}"#)
        .await;
    let id = text(&world.until_records(1).await[0], "delivery_id");
    // Nothing has changed, so it becomes a dead letter again.
    run(&settings, 0, &["poison", "replay", &id, "--reason", "perhaps now", "--yes"]).await;
    let letter = world.broker.take_one("usher.poison").await;
    assert_eq!(letter.header("usher-origin"), BOOKINGS);
    assert_eq!(letter.header("usher-event-id"), "e-1");
}

#[tokio::test]
async fn more_mail_than_the_limit_per_recipient_waits_and_none_is_dropped() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    let settings = world.usher().smtp(&smtp).set("RATE_LIMIT_PER_RECIPIENT", "2/3s");
    let _usher = settings.start().await;
    for number in 0..3 {
        let event = booking(&format!("e-{number}"), "one@example.com").to_string();
        world.broker.publish(BOOKINGS, event).await;
    }
    world.broker.publish(BOOKINGS, booking("other", "two@example.com").to_string()).await;
    let at_once = world.until_records(3).await;
    assert_eq!(smtp.accepted().len(), 3, "{:?}", brief(&at_once));
    // Waiting counts no attempt.
    let all = world.until_records(4).await;
    assert!(all.iter().all(|record| text(record, "attempt") == "1"), "{:?}", brief(&all));
    smtp.until_accepted(4).await;
}

/// Clears the screen, sets its title, and reverses what follows.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{1b}]0;title\u{7}\u{202e}gpj";

#[tokio::test]
async fn no_command_lets_an_event_steer_the_terminal() {
    let world = World::new().await;
    let smtp = SmtpServer::start().await;
    smtp.at(Phase::Rcpt).once().reply(&format!("550 5.1.1 {HOSTILE}"));
    let settings = world.usher().smtp(&smtp);
    let _usher = settings.start().await;
    let mut refused = booking("e-1", "one@example.com");
    refused["source"] = HOSTILE.into();
    refused["data"]["customer_name"] = HOSTILE.into();
    world.broker.publish(BOOKINGS, refused.to_string()).await;
    world.broker.publish(BOOKINGS, format!("{{{HOSTILE}")).await;
    let records = world.until_records(2).await;
    let id = |status: &str| {
        let record = records.iter().find(|record| text(record, "status") == status);
        text(record.expect("its record"), "delivery_id")
    };
    let (failed, rejected) = (id("failed"), id("rejected"));
    let sample = std::env::temp_dir().join(format!("usher-test-{failed}.json"));
    std::fs::write(&sample, refused.to_string()).expect("a file");
    let sample = sample.to_str().expect("a path");
    let commands: [&[&str]; 12] = [
        &["dead-letters", "list"],
        &["dead-letters", "list", "--json"],
        &["dead-letters", "show", &failed],
        &["dead-letters", "show", &failed, "--event"],
        &["poison", "show", &rejected, "--event"],
        &["poison", "list"],
        &["audit", "find"],
        &["audit", "find", "--format", "csv"],
        &["audit", "export", "--format", "csv"],
        &["audit", "export"],
        &["audit", "show", &failed, "--html"],
        &["render", sample],
    ];
    let steers = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    for arguments in commands {
        let printed = run(&settings, 0, arguments).await;
        assert!(!printed.contains(steers), "{arguments:?}: {printed:?}");
    }
    let show = ["poison", "show", &rejected, "--event"];
    assert!(run(&settings, 0, &show).await.contains(r"\u001b[2J\u009b31m"));
    let raw = run(&settings, 0, &[&["--raw"], &show[..]].concat()).await;
    assert_eq!(raw, format!("{{{HOSTILE}\n"));
    std::fs::remove_file(sample).expect("a file");
    let missing = run(&settings, 65, &["dead-letters", "show", HOSTILE]).await;
    assert!(!missing.contains(steers), "{missing:?}");
}

#[tokio::test]
async fn a_list_says_how_many_there_are_and_of_which_kinds() {
    let world = World::new().await;
    let settings = world.usher();
    let _usher = settings.start().await;
    for (id, kind) in [("e-1", "no.such.type"), ("e-2", "another.type")] {
        let mut event = booking(id, "ana@example.com");
        event["event_type"] = kind.into();
        world.broker.publish(BOOKINGS, event.to_string()).await;
    }
    world.broker.publish(BOOKINGS, r#"{"event_id": "e-3""#).await;
    world.until_records(3).await;
    let list = |more: &[&str]| {
        let settings = settings.clone();
        let arguments: Vec<String> =
            ["poison", "list"].iter().chain(more).map(|one| (*one).to_owned()).collect();
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(&settings, 0, &arguments).await
        }
    };
    let listed = list(&["--limit", "1"]).await;
    assert!(listed.starts_with("AT (UTC)"), "{listed}");
    assert!(listed.contains("1 of 3; --limit or --all lists more"), "{listed}");
    let newest = listed.split_whitespace().find(|word| word.len() == 32).expect("an id");
    assert!(list(&["--all"]).await.contains("3 of 3"));
    let groups = list(&["--group-by", "error"]).await;
    let first = groups.lines().nth(1).expect("a group");
    assert!(first.trim().starts_with("2 ") && first.ends_with("unknown event type …"), "{groups}");
    let groups = list(&["--group-by", "queue", "--json"]).await;
    assert!(groups.contains(&format!(r#""queue":"{BOOKINGS}""#)), "{groups}");
    assert!(groups.contains(r#""count":3"#), "{groups}");
    let missed = list(&["--route", "booking-confirmed"]).await;
    assert!(missed.contains("matches; without the filter there are 3"), "{missed}");

    let drop = ["poison", "drop", newest, "--reason", "obsolete", "--yes"];
    let anonymous = settings.clone().set("USER", "root");
    let refused = run(&anonymous, 65, &drop).await;
    assert!(refused.contains("--by or USHER_OPERATOR"), "{refused}");
    run(&settings, 0, &drop).await;
    // What was removed takes nobody's place.
    let listed = list(&["--limit", "1"]).await;
    assert!(listed.contains("1 of 2") && !listed.contains(newest), "{listed}");
}
