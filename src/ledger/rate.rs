//! The limit per recipient: a leaky bucket stored as one number (generic cell rate algorithm).

use std::time::Duration;

use crate::{config::RateLimit, duration::millis};

impl RateLimit {
    /// Milliseconds between two mails at the limit.
    pub(super) fn interval_ms(self) -> i64 {
        (self.period_ms() / i64::from(self.count.max(1))).max(1)
    }

    pub(super) fn period_ms(self) -> i64 {
        millis(self.period).min(i64::MAX / 2)
    }

    /// Whether one more mail may be sent now. `full_until_ms` is when the bucket will have drained,
    /// if it is not empty. Returns its new value, or how long to wait.
    pub(crate) fn admit(self, full_until_ms: Option<i64>, now_ms: i64) -> Result<i64, Duration> {
        let next = full_until_ms.unwrap_or(now_ms).max(now_ms) + self.interval_ms();
        match next - self.period_ms() - now_ms {
            wait if wait > 0 => Err(Duration::from_millis(wait.unsigned_abs())),
            _ => Ok(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_by_one() {
        let limit = RateLimit { count: 3, period: Duration::from_secs(60) };
        let mut bucket = None;
        for _ in 0..3 {
            bucket = Some(limit.admit(bucket, 1_000).unwrap());
        }
        assert_eq!(limit.admit(bucket, 1_000), Err(Duration::from_secs(20)));
        bucket = Some(limit.admit(bucket, 21_000).unwrap());
        assert_eq!(limit.admit(bucket, 21_000), Err(Duration::from_secs(20)));
        assert!(limit.admit(bucket, 200_000).is_ok());
    }
}
