//! Each query has its index, and a document that is not a record is refused.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Bson, DateTime, Document, doc};
use usher::audit::{Status, store::search::Filter};

use crate::support::{
    events::{BOOKINGS, booking},
    eventually,
    world::{World, brief, text},
};

/// Every stage of the chosen query plan.
fn stages(plan: &Bson, found: &mut BTreeSet<String>) {
    match plan {
        Bson::Document(fields) => {
            for (name, value) in fields {
                match value {
                    Bson::String(stage) if name == "stage" => drop(found.insert(stage.clone())),
                    _ if name == "rejectedPlans" => {}
                    nested => stages(nested, found),
                }
            }
        }
        Bson::Array(items) => items.iter().for_each(|item| stages(item, found)),
        _ => {}
    }
}

/// The plan of a query, and whether the server is the stand-in.
async fn plan(
    world: &World,
    collection: &str,
    filter: &Document,
    sort: &Document,
) -> (BTreeSet<String>, bool) {
    let find = doc! {"find": collection, "filter": filter, "sort": sort};
    let plan = world.command(doc! {"explain": find, "verbosity": "queryPlanner"}).await;
    let plan = plan.expect("an explanation");
    let mut found = BTreeSet::new();
    stages(plan.get("queryPlanner").expect("a plan"), &mut found);
    (found, text(&plan, "serverInfo.host") == "secantus")
}

fn is_by_index(stages: &BTreeSet<String>) -> bool {
    stages.iter().any(|stage| stage.contains("IXSCAN")) && !stages.contains("COLLSCAN")
}

/// Checks that an index answers the query. The stand-in uses an index only if it has every field of
/// the filter, so there the filter is reduced to the fields of one index.
pub(crate) async fn assert_uses_an_index(
    world: &World,
    collection: &str,
    filter: &Document,
    sort: &Document,
) {
    let (stages, is_stand_in) = plan(world, collection, filter, sort).await;
    if is_by_index(&stages) {
        return;
    }
    assert!(is_stand_in, "{stages:?}: {collection} {filter} {sort}");
    for index in world.indexes(collection).await {
        let keys = index.keys;
        let first = keys.keys().next().expect("a key");
        if !filter.contains_key(first) && sort.keys().next() != Some(first) {
            continue;
        }
        let covered = filter.iter().filter(|(field, _)| keys.contains_key(field));
        let covered = covered.map(|(field, wanted)| (field.clone(), wanted.clone())).collect();
        if is_by_index(&plan(world, collection, &covered, sort).await.0) {
            return;
        }
    }
    panic!("no index for {collection} {filter} {sort}");
}

#[tokio::test]
async fn each_query_of_usher_has_its_index_and_what_is_no_record_is_refused() {
    let world = World::new().await;
    let routes = include_str!("../../config/routes.toml").replacen(
        "name = \"booking-confirmed\"",
        "name = \"booking-confirmed\"\nretention = \"2d\"",
        1,
    );
    let file = world.folder().join("routes.toml");
    std::fs::write(&file, routes).unwrap();
    let settings = world.usher().set("ROUTES_FILE", file.display().to_string());
    let mut usher = settings.start().await;
    let set = "the validator of deliveries is set";
    eventually("the validator is set", async || usher.find_log(set).pop()).await;
    world.broker.publish(BOOKINGS, booking("evt-1", "ana@example.com").to_string()).await;
    let record = world.until_records(1).await.remove(0);
    assert_eq!(brief(std::slice::from_ref(&record)), ["ana@example.com 1 simulated "]);
    let kept = |field: &str| record.get_datetime(field).unwrap().timestamp_millis();
    assert_eq!(kept("purge_at") - kept("at"), 2 * 24 * 3_600_000, "as its route says");

    let some = |text: &str| Some(text.to_owned());
    let since = Some(Timestamp::now() - SignedDuration::from_hours(1));
    let found_by = [
        Filter { booking: some("B"), ..Filter::default() },
        Filter {
            correlation: Some(("transaction_id".to_owned(), "T".to_owned())),
            ..Filter::default()
        },
        Filter { event: some("e"), ..Filter::default() },
        Filter { recipient_hash: some("h"), ..Filter::default() },
        Filter { kind: some("booking.confirmed"), since, ..Filter::default() },
        Filter { routes: Some(vec!["r".to_owned()]), since, ..Filter::default() },
        Filter { statuses: vec![Status::Failed], since, ..Filter::default() },
        Filter { since, ..Filter::default() },
        Filter::default(),
    ];
    let now = DateTime::now();
    let mut queries: Vec<(&str, Document, Document)> = Vec::new();
    for filter in found_by {
        queries.push(("deliveries", filter.to_document(), doc! {"at": -1}));
        queries.push(("deliveries", filter.to_document(), doc! {"at": 1}));
    }
    queries.extend([
        ("deliveries", doc! {"delivery_id": "d", "status": {"$ne": "duplicate"}}, doc! {"at": -1}),
        ("deliveries", doc! {"delivery_id": {"$in": ["c", "d"]}}, doc! {}),
        ("deliveries", doc! {"delivery_id": {"$gte": "d", "$lte": "dg"}}, doc! {}),
        ("deliveries", doc! {"status": "retrying", "due": {"$lt": now}}, doc! {"due": 1}),
        ("actions", doc! {"target": "d"}, doc! {"at": 1}),
        (
            "planned",
            doc! {"state": {"$in": ["planned", "claimed"]}, "claim_at": {"$lte": now}},
            doc! {"claim_at": 1},
        ),
        ("planned", doc! {"state": "planned", "due": {"$lt": now}}, doc! {"due": 1}),
        ("planned", doc! {"booking_id": "B"}, doc! {"planned_at": -1}),
    ]);
    for (collection, filter, sort) in queries {
        assert_uses_an_index(&world, collection, &filter, &sort).await;
    }

    let deliveries = world.collection("deliveries");
    for (field, value) in [
        ("status", Bson::from("perhaps")),
        ("at", "yesterday".into()),
        ("recipient", Bson::Null),
        ("attempt", (-1).into()),
    ] {
        let mut odd = record.clone();
        odd.insert("_id", field);
        odd.insert(field, value);
        let refused = deliveries.insert_one(odd).await.unwrap_err();
        assert!(refused.to_string().contains("121"), "{field}: {refused}");
    }

    // Existing indexes stay, and missing ones are created.
    usher.terminate().await;
    let bookings = world.collection("bookings");
    bookings.drop_index("purge_at_1").await.unwrap();
    let again = settings.start().await;
    eventually("the index, which is made last, is back", async || {
        let names = bookings.list_index_names().await.unwrap();
        names.contains(&"purge_at_1".to_owned()).then_some(())
    })
    .await;
    assert!(again.find_log(set).is_empty());
}
