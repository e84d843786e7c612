//! The scheduler: MongoDB and embedded.

use std::collections::HashSet;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use usher::{
    broker::DeliveryHeaders,
    clients::mongo::connect,
    embedded::scheduler::EmbeddedScheduler,
    event::Properties,
    routing::{DeliveryId, Lifecycle, Priority},
    scheduler::{
        Added, BATCH, Backlog, Booking, LEASE, Planned, Scheduler, State, Version,
        mongo::MongoScheduler,
    },
    supervisor::Supervisor,
};

use super::{Backend, Store, database, delivery_id, endpoint, on_both};
use crate::support::world::World;

on_both! { mongodb:
    what_is_due_is_claimed_as_it_was_planned,
    what_is_not_due_is_not_claimed,
    what_is_claimed_is_claimed_by_nobody_else_within_its_lease,
    what_is_claimed_is_claimed_again_after_its_lease,
    what_was_published_is_never_claimed_again,
    more_than_a_batch_is_claimed_once_each_by_three,
    planning_again_changes_nothing,
    another_event_is_told_who_planned_it_first,
    what_is_void_is_not_claimed_and_says_why,
    what_is_void_is_planned_anew_by_another_event_alone,
    what_is_claimed_can_not_be_voided,
    what_is_not_there_can_not_be_voided,
    of_a_booking_the_newest_comes_first,
    the_backlog_counts_by_the_hour_and_what_is_overdue,
    a_booking_that_never_changed_is_not_known,
    the_latest_change_of_a_booking_counts,
    the_same_change_again_changes_nothing,
}

async fn scheduler(backend: Backend) -> Store<dyn Scheduler> {
    match backend {
        Backend::Embedded => {
            Store { store: Box::new(EmbeddedScheduler::new(database())), _world: None }
        }
        Backend::Service => {
            let world = World::new().await;
            let database = connect(&endpoint(world.mongodb_uri()), world.name()).await;
            let database = database.expect("TEST_MONGODB_URI");
            let scheduler = MongoScheduler::new(&database, &Supervisor::default());
            scheduler.prepare().await.expect("indexes");
            Store { store: Box::new(scheduler), _world: Some(world) }
        }
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn now() -> Timestamp {
    at("2024-12-15T19:30:00Z")
}

fn seconds(after: Timestamp, seconds: i64) -> Timestamp {
    after + SignedDuration::from_secs(seconds)
}

fn lease() -> SignedDuration {
    SignedDuration::try_from(LEASE).expect("a lease")
}

/// Mail of booking B for later, which this event asks for.
fn planned(event_id: &str, due: Timestamp) -> Planned {
    let delivery_id = delivery_id();
    let delivery_headers = DeliveryHeaders {
        delivery_id: delivery_id.clone(),
        event_id: event_id.to_owned(),
        route: "r".to_owned(),
        channel: "email".to_owned(),
        recipient: "ñ@example.com".to_owned(),
        attempt: 1,
        origin: "q".to_owned(),
        reason: "planned".to_owned(),
        masked: false,
        arrived_at: Some(due),
        relay: None,
        template: None,
        corrected: false,
    };
    Planned {
        delivery_id,
        due,
        claim_at: due,
        state: State::Planned,
        reason: None,
        booking_id: Some("B".to_owned()),
        event_type: "booking.confirmed".to_owned(),
        priority: Priority::High,
        version: Version { sequence: Some(7), occurred_at: Some(due), arrived_at: due },
        planned_at: due,
        purge_at: None,
        decision: None,
        delivery_headers,
        properties: Properties {
            correlation_id: Some("c-1".to_owned()),
            timestamp: Some(1_700_000_000),
            ..Properties::default()
        },
        body: "{\"a\": \"ñ\"}".to_owned(),
    }
}

impl Store<dyn Scheduler> {
    async fn plan(&self, planned: &Planned) -> Added {
        self.add(planned.clone()).await.expect("planned")
    }

    async fn claim(&self, now: Timestamp) -> Vec<Planned> {
        self.claim_due(now).await.expect("claimed")
    }

    async fn cancel(&self, planned: &Planned, reason: &str) -> bool {
        self.store.cancel(&planned.delivery_id, reason).await.expect("an answer")
    }

    async fn of_b(&self) -> Vec<Planned> {
        self.for_booking("B").await.expect("an answer")
    }
}

async fn what_is_due_is_claimed_as_it_was_planned(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    assert_eq!(scheduler.plan(&one).await, Added::New);
    let claimed = scheduler.claim(now()).await.remove(0);
    // Which state and lease it shows is the store's own business.
    let Planned { state, claim_at, .. } = one.clone();
    assert_eq!(Planned { state, claim_at, ..claimed }, one);
}

async fn what_is_not_due_is_not_claimed(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let due = at("2025-03-30T01:30:00Z");
    scheduler.plan(&planned("e", due)).await;
    for early in ["2024-03-30T01:30:00Z", "2025-03-30T01:29:59.999Z"] {
        assert_eq!(scheduler.claim(at(early)).await, [], "{early}");
    }
    assert_eq!(scheduler.claim(due).await.len(), 1);
}

async fn what_is_claimed_is_claimed_by_nobody_else_within_its_lease(backend: Backend) {
    let scheduler = scheduler(backend).await;
    scheduler.plan(&planned("e", now())).await;
    assert_eq!(scheduler.claim(now()).await.len(), 1);
    // The clock is put back, stands still, and goes on.
    for seconds_later in [-86_400, 0, 29] {
        assert_eq!(scheduler.claim(seconds(now(), seconds_later)).await, [], "{seconds_later} s");
    }
}

async fn what_is_claimed_is_claimed_again_after_its_lease(backend: Backend) {
    let scheduler = scheduler(backend).await;
    scheduler.plan(&planned("e", now())).await;
    assert_eq!(scheduler.claim(now()).await.len(), 1);
    assert_eq!(scheduler.claim(now() + lease()).await.len(), 1);
}

async fn what_was_published_is_never_claimed_again(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    scheduler.plan(&one).await;
    scheduler.claim(now()).await;
    scheduler.published(std::slice::from_ref(&one.delivery_id)).await.expect("noted");
    assert_eq!(scheduler.claim(at("2999-01-01T00:00:00Z")).await, []);
    let kept = scheduler.of_b().await.remove(0);
    assert_eq!(kept.state, State::Published);
    assert!(kept.purge_at.is_some(), "it may be deleted");
}

async fn more_than_a_batch_is_claimed_once_each_by_three(backend: Backend) {
    const COUNT: usize = 2 * BATCH + 1;
    let scheduler = scheduler(backend).await;
    let all: Vec<_> = (0..COUNT).map(|_| planned("e", now())).collect();
    for added in join_all(all.iter().map(|one| scheduler.plan(one))).await {
        assert_eq!(added, Added::New);
    }
    let claim = async || {
        let mut mine: Vec<DeliveryId> = Vec::new();
        loop {
            let claimed = scheduler.claim(now()).await;
            assert!(claimed.len() <= BATCH);
            // Others may have been faster with all of a batch.
            if claimed.is_empty() && scheduler.backlog_of_planned().await == 0 {
                return mine;
            }
            let ids: Vec<_> = claimed.into_iter().map(|one| one.delivery_id).collect();
            scheduler.published(&ids).await.expect("noted");
            mine.extend(ids);
        }
    };
    let (one, two, three) = tokio::join!(claim(), claim(), claim());
    let claimed = [one, two, three].concat();
    assert_eq!(claimed.len(), COUNT);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>().len(), COUNT);
}

impl Store<dyn Scheduler> {
    /// How many nobody has claimed yet.
    async fn backlog_of_planned(&self) -> usize {
        self.of_b().await.iter().filter(|one| one.state == State::Planned).count()
    }
}

async fn planning_again_changes_nothing(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    assert_eq!(scheduler.plan(&one).await, Added::New);
    let later = Planned { due: seconds(now(), 60), body: "{}".to_owned(), ..one.clone() };
    assert_eq!(scheduler.plan(&later).await, Added::Known);
    assert_eq!(scheduler.of_b().await, [one]);
}

/// The same delivery, asked for by another event.
fn by(event_id: &str, one: &Planned) -> Planned {
    let mut other = one.clone();
    other.delivery_headers.event_id = event_id.to_owned();
    other
}

async fn another_event_is_told_who_planned_it_first(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    scheduler.plan(&one).await;
    assert_eq!(scheduler.plan(&by("other", &one)).await, Added::Duplicate("e".to_owned()));
    assert_eq!(scheduler.of_b().await, [one]);
}

async fn what_is_void_is_not_claimed_and_says_why(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    scheduler.plan(&one).await;
    assert!(scheduler.cancel(&one, "because").await);
    assert!(!scheduler.cancel(&one, "again").await);
    assert_eq!(scheduler.claim(now()).await, []);
    let kept = scheduler.of_b().await.remove(0);
    assert_eq!((kept.state, kept.reason.as_deref()), (State::Cancelled, Some("because")));
    assert!(kept.purge_at.is_some(), "it may be deleted");
}

async fn what_is_void_is_planned_anew_by_another_event_alone(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    scheduler.plan(&one).await;
    scheduler.cancel(&one, "because").await;
    assert_eq!(scheduler.plan(&one).await, Added::Known);
    assert_eq!(scheduler.claim(now()).await, []);
    let anew = by("other", &one);
    assert_eq!(scheduler.plan(&anew).await, Added::New);
    assert_eq!(scheduler.of_b().await, std::slice::from_ref(&anew), "its reason is gone");
    assert_eq!(scheduler.claim(now()).await.len(), 1);
}

async fn what_is_claimed_can_not_be_voided(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let one = planned("e", now());
    scheduler.plan(&one).await;
    scheduler.claim(now()).await;
    assert!(!scheduler.cancel(&one, "too late").await);
    assert_eq!(scheduler.of_b().await[0].state, State::Claimed);
}

async fn what_is_not_there_can_not_be_voided(backend: Backend) {
    let scheduler = scheduler(backend).await;
    assert!(!scheduler.cancel(&planned("e", now()), "because").await);
}

async fn of_a_booking_the_newest_comes_first(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let of = |event_id: &str, booking: &str, seconds_later: i64| Planned {
        booking_id: Some(booking.to_owned()),
        planned_at: seconds(now(), seconds_later),
        ..planned(event_id, now())
    };
    for one in [of("first", "B", 1), of("third", "B", 3), of("other", "C", 4), of("second", "B", 2)]
    {
        scheduler.plan(&one).await;
    }
    let found = scheduler.of_b().await;
    let events: Vec<_> = found.iter().map(|one| one.delivery_headers.event_id.as_str()).collect();
    assert_eq!(events, ["third", "second", "first"]);
}

async fn the_backlog_counts_by_the_hour_and_what_is_overdue(backend: Backend) {
    let scheduler = scheduler(backend).await;
    for seconds_later in [-301, -299, 0, 3599, 3600, 24 * 3600 - 1, 24 * 3600] {
        scheduler.plan(&planned("e", seconds(now(), seconds_later))).await;
    }
    let mut hours = [0; 24];
    (hours[0], hours[1], hours[23]) = (2, 1, 1);
    let backlog = scheduler.backlog(now()).await.expect("an answer");
    assert_eq!(backlog, Backlog { hours, overdue: 1 });
}

fn change(event_id: &str, sequence: i64, state: Lifecycle) -> Booking {
    let version = Version { sequence: Some(sequence), occurred_at: None, arrived_at: now() };
    Booking {
        id: "B".to_owned(),
        state,
        event_id: event_id.to_owned(),
        event_type: "booking.cancelled".to_owned(),
        version,
        showtime: Some("2024-12-15T19:30:00-05:00".to_owned()),
        timezone: None,
        purge_at: at("2999-01-01T00:00:00Z"),
        is_corrected: false,
    }
}

async fn a_booking_that_never_changed_is_not_known(backend: Backend) {
    let scheduler = scheduler(backend).await;
    scheduler.change(change("c", 1, Lifecycle::Cancelled)).await.expect("kept");
    assert_eq!(scheduler.booking("another").await.expect("an answer"), None);
}

async fn the_latest_change_of_a_booking_counts(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let moved = change("r", 1, Lifecycle::Rescheduled);
    let cancelled = change("c", 3, Lifecycle::Cancelled);
    let late = change("late", 2, Lifecycle::Rescheduled);
    for (told, counts) in [(&moved, &moved), (&cancelled, &cancelled), (&late, &cancelled)] {
        assert_eq!(&scheduler.change(told.clone()).await.expect("kept"), counts);
    }
    assert_eq!(scheduler.booking("B").await.expect("an answer"), Some(cancelled));
}

async fn the_same_change_again_changes_nothing(backend: Backend) {
    let scheduler = scheduler(backend).await;
    let first = change("c", 1, Lifecycle::Cancelled);
    scheduler.change(first.clone()).await.expect("kept");
    let mut again = first.clone();
    again.version.arrived_at = seconds(now(), 60);
    assert_eq!(scheduler.change(again).await.expect("kept"), first);
}
