//! Calls of the ledger's script: several inputs in one call, and a Redis that lost the script.

use futures_util::future::join_all;
use redis::AsyncCommands;
use usher::{
    ledger::{Claim, Input, Ledger, Owner, Reply},
    routing::DeliveryId,
};

use crate::ledger::{ledger, open};

#[tokio::test]
async fn a_script_that_redis_has_forgotten_is_loaded_again() {
    let (ledger, mut redis) = ledger(0, 0).await;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let delivery = DeliveryId::from_stored(&id).expect("an id");
    let sent =
        Input::Sent { event: "e".to_owned(), attempt: 1, record: "{}".to_owned(), derived: false };
    for forgotten in [false, true] {
        if forgotten {
            // Only once: the other tests' usher has to load the script again too.
            let flush: redis::RedisResult<()> =
                redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut redis).await;
            flush.expect("flushed");
        }
        let answers = (0..20).map(|_| ledger.apply(&delivery, sent.clone()));
        for answer in join_all(answers).await {
            assert_eq!(answer.expect("an answer"), Reply::Granted { fence: 0, attempt: 1 });
        }
    }
}

#[tokio::test]
async fn inputs_of_one_call_are_applied_in_turn_and_a_failed_one_affects_no_other() {
    let (ledger, mut redis) = ledger(0, 0).await;
    open(&ledger).await;
    let delivery = || {
        let id = uuid::Uuid::new_v4().simple().to_string();
        DeliveryId::from_stored(&id).expect("an id")
    };
    let (good, text, list, other) = (delivery(), delivery(), delivery(), delivery());
    let entry = |delivery: &DeliveryId| format!("usher:ledger:{delivery}");
    let _: () = redis.set(entry(&text), "no entry").await.expect("set");
    let _: () = redis.rpush(entry(&list), "no string").await.expect("pushed");
    let owner = |token| Owner { instance: "i".to_owned(), token };
    let claim = |token, event: &str| {
        Input::Claim(Claim {
            owner: owner(token),
            event: event.to_owned(),
            attempt: 1,
            fresh: false,
            alone: false,
            audit_is_silent: true,
            tried: 0,
            derived: false,
        })
    };
    let sent = |record: &str| Input::Sent {
        event: "e".to_owned(),
        attempt: 1,
        record: record.to_owned(),
        derived: false,
    };
    let answers = [
        (&good, claim(1, "e")),
        (&text, sent("{}")),
        (&good, Input::Latch { owner: owner(1), fence: 1, relay: None }),
        (&list, sent("{}")),
        (&good, sent("{\"first\":1}")),
        (&good, claim(2, "e")),
        (&other, claim(3, "e")),
        (&good, claim(4, "another")),
    ];
    let answers = answers.map(|(delivery, input)| ledger.apply(delivery, input));
    let answers: Vec<_> = join_all(answers)
        .await
        .into_iter()
        .map(|answer| answer.map_err(|error| error.to_string()))
        .collect();
    let record = || Some("{\"first\":1}".to_owned());
    let no_entry =
        |delivery| Err(format!("the ledger did not answer: {} is no entry", entry(delivery)));
    assert_eq!(
        answers,
        [
            Ok(Reply::Granted { fence: 1, attempt: 1 }),
            no_entry(&text),
            Ok(Reply::Granted { fence: 1, attempt: 1 }),
            no_entry(&list),
            Ok(Reply::Granted { fence: 1, attempt: 1 }),
            Ok(Reply::Done { record: record() }),
            Ok(Reply::Granted { fence: 1, attempt: 1 }),
            Ok(Reply::Duplicate { record: record() }),
        ]
    );
}
