//! The time that instances agree on. A host's clock may be wrong, and so may a store's: the median of
//! this host's, Redis's and MongoDB's is right as long as one of them is wrong at a time.

use std::{
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;

/// Where time begins that no clock's jump alters.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the clocks agree on at [`START`], in milliseconds; [`UNKNOWN`] until it was measured.
static AGREED: AtomicI64 = AtomicI64::new(UNKNOWN);
const UNKNOWN: i64 = i64::MIN;

/// The time that instances agree on; this host's until the stores were asked, and without stores.
pub(crate) fn now() -> Timestamp {
    let agreed = AGREED.load(Ordering::Relaxed);
    if agreed == UNKNOWN {
        return Timestamp::now();
    }
    Timestamp::from_millisecond(agreed + elapsed(Instant::now()))
        .unwrap_or_else(|_| Timestamp::now())
}

fn elapsed(at: Instant) -> i64 {
    i64::try_from(at.saturating_duration_since(*START).as_millis()).unwrap_or(i64::MAX / 2)
}

/// What is known of the stores' clocks.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    redis: Option<i64>,
    mongodb: Option<i64>,
}

/// How far each clock is from the time that all agree on, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew {
    pub(crate) host: i64,
    pub(crate) redis: Option<i64>,
    pub(crate) mongodb: Option<i64>,
}

/// Which clock it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Redis,
    MongoDb,
}

impl Clocks {
    /// Takes down a store's time, in Unix milliseconds, and when it was asked for and came.
    pub(crate) fn heard(&mut self, store: Store, asked: Range<Instant>, time: i64) {
        let clock = match store {
            Store::Redis => &mut self.redis,
            Store::MongoDb => &mut self.mongodb,
        };
        *clock = Some(time - (elapsed(asked.start) + elapsed(asked.end)) / 2);
    }

    /// Has [`now`] go by what is known by now.
    pub(crate) fn agree(&self) -> Skew {
        let host = Timestamp::now().as_millisecond() - elapsed(Instant::now());
        let agreed = median(host, self.redis, self.mongodb);
        AGREED.store(agreed, Ordering::Relaxed);
        let from_agreed = |clock: i64| clock - agreed;
        Skew {
            host: from_agreed(host),
            redis: self.redis.map(from_agreed),
            mongodb: self.mongodb.map(from_agreed),
        }
    }
}

/// Of two, the store's counts: all instances have the same one.
fn median(host: i64, redis: Option<i64>, mongodb: Option<i64>) -> i64 {
    match (redis, mongodb) {
        (Some(redis), Some(mongodb)) => host.clamp(redis.min(mongodb), redis.max(mongodb)),
        (one, other) => one.or(other).unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clock_that_is_wrong_is_outvoted() {
        for [host, redis, mongodb] in [[600, 0, 1], [1, 900, 0], [0, 1, -700], [-600, 0, 1]] {
            let agreed = median(host, Some(redis), Some(mongodb));
            assert!([0, 1].contains(&agreed), "{agreed}");
        }
        assert_eq!(median(600, Some(1), None), 1);
        assert_eq!(median(600, None, Some(2)), 2);
        assert_eq!(median(600, None, None), 600);
    }
}
