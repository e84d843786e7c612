//! Repeatable random numbers (splitmix64), sufficient to choose the next process to kill.

use std::{ops::Range, time::Duration};

/// Seeded dice.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `CHAOS_SEED`, or one from the clock.
    pub(crate) fn seed() -> u64 {
        let asked = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
        asked.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            // Short enough to type.
            now.map_or(1, |now| now.as_micros() as u64 % 1_000_000)
        })
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub(crate) fn millis(&mut self, range: Range<u64>) -> Duration {
        let width = (range.end - range.start) as usize;
        Duration::from_millis(range.start + self.below(width) as u64)
    }
}
