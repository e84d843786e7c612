//! Which relay may have a mail, and how that one recognises it, as a text for the ledger and for headers:
//! `RELAY` or `RELAY;DATE;UNTIL`, times in seconds. Where there is one relay only, it has no name.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::audit::Repeatable;

pub(super) fn text(relay: Option<&str>, repeatable: Option<Repeatable>) -> Option<String> {
    let Some(Repeatable { date, until }) = repeatable else { return relay.map(ToOwned::to_owned) };
    Some(format!("{};{};{}", relay.unwrap_or_default(), date.as_second(), until.as_second()))
}

pub(super) fn relay(text: &str) -> Option<&str> {
    text.split(';').next().filter(|name| !name.is_empty())
}

pub(super) fn repeatable(text: &str) -> Option<Repeatable> {
    let mut times =
        text.split(';').skip(1).map(|time| Timestamp::from_second(time.parse().ok()?).ok());
    Some(Repeatable { date: times.next()??, until: times.next()?? })
}

impl Repeatable {
    /// For a mail that goes out now, whose key the relay knows for this long.
    pub(super) fn from_now(window: Duration) -> Option<Self> {
        let date = Timestamp::from_second(crate::clock::now().as_second()).ok()?;
        let until = date.checked_add(SignedDuration::try_from(window).ok()?).ok()?;
        Some(Self { date, until })
    }

    /// Whether the relay still knows the key when the mail is sent again after this wait.
    pub(super) fn lasts(self, wait: Duration) -> bool {
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        crate::clock::now().checked_add(wait).is_ok_and(|again| again < self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_a_name_alone_stays_as_it_was() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let known = Repeatable { date: at(1_700_000_000), until: at(1_700_082_800) };
        assert_eq!(text(Some("backup"), None).as_deref(), Some("backup"));
        assert_eq!(text(None, None), None);
        for name in [None, Some("backup")] {
            let written = text(name, Some(known)).expect("a text");
            assert_eq!((relay(&written), repeatable(&written)), (name, Some(known)));
        }
        assert_eq!((relay("backup"), repeatable("backup")), (Some("backup"), None));
        assert_eq!(repeatable("backup;x;1"), None);
    }
}
