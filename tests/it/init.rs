//! `usher init`, and own files over the shipped ones.

use std::path::Path;

use super::commands::{stderr, stdout};
use crate::support::usher::Builder;

#[tokio::test]
async fn what_init_writes_works_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let usher = Builder::new(folder.path());
    let output = usher.output(&["init", "shop"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("usher check --offline"), "{}", stdout(&output));

    let shop = folder.path().join("shop");
    let usher = Builder::new(&shop).set("HTTP_LISTEN", "off");
    let checked = usher.output(&["check", "--offline"]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let gallery = usher.output(&["render", "--all", "--out", "mail"]).await;
    assert_eq!(gallery.status.code(), Some(0), "{}", stderr(&gallery));
    let event = "templates/order_shipped/samples/shipped.json";
    let shown = usher.output(&["render", event]).await;
    assert!(stdout(&shown).contains("ORD-77"), "{}", stdout(&shown));
    let run = usher.output(&["run", "--embedded", "data", "--events", event]).await;
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    let sent = std::fs::read_dir(shop.join("data/mail")).expect("mail").count();
    assert_eq!(sent, 1);

    // A folder that is in use is left as it is.
    let settings = shop.join("usher.toml");
    std::fs::write(&settings, "# mine").expect("written");
    let again = Builder::new(folder.path()).output(&["init", "shop"]).await;
    assert_eq!(again.status.code(), Some(65));
    assert!(stderr(&again).contains("usher.toml"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(&settings).expect("read"), "# mine");
}

#[tokio::test]
async fn a_sample_without_its_recipient_is_a_fault_and_not_a_dead_letter_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let usher = Builder::new(folder.path());
    assert_eq!(usher.output(&["init", "shop"]).await.status.code(), Some(0));
    let shop = folder.path().join("shop");
    let routes = std::fs::read_to_string(shop.join("routes.toml")).expect("read");
    let misspelt = routes.replace(r#"field = "user_email""#, r#"field = "usr_email""#);
    assert_ne!(misspelt, routes);
    std::fs::write(shop.join("routes.toml"), misspelt).expect("written");
    let checked = Builder::new(&shop).output(&["check", "--offline"]).await;
    assert_eq!(checked.status.code(), Some(78), "{}", stdout(&checked));
    let told = r#"route "order-shipped": recipient field "usr_email" is missing or empty"#;
    assert!(stderr(&checked).contains(told), "{}", stderr(&checked));
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("written");
}

#[tokio::test]
async fn one_own_file_replaces_one_shipped_file() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("own/booking_confirmation/en.subject.hbs"), "Mine: {{booking_id}}\n");
    write(&folder.path().join("own/booking_confirmation/en.subjet.hbs"), "misspelt");
    let usher = Builder::new(folder.path()).set("TEMPLATES_DIR", "own");
    let sample = include_str!("../../templates/booking_confirmation/samples/full.json");
    write(&folder.path().join("event.json"), sample);
    let shown = usher.output(&["render", "event.json", "--locale", "en"]).await;
    assert!(stdout(&shown).contains("subject: Mine: "), "{}{}", stdout(&shown), stderr(&shown));
    let checked = usher.output(&["check", "--offline"]).await;
    let told = "note     templates: booking_confirmation/en.subjet.hbs is used by nothing";
    assert!(stdout(&checked).contains(told), "{}", stdout(&checked));
}
