//! A mix of every kind of event, and the allowed outcomes of each.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{
    events::{booking, rescheduled, with},
    smtp::{Phase, SmtpServer},
};

/// The team, who are told of each reschedule.
pub(crate) const ADMINS: [&str; 2] = ["ana@cine.test", "bob@cine.test"];

/// When planned mail is due: after its event was taken, even on a loaded machine.
const LATER: SignedDuration = SignedDuration::from_secs(8);

/// Where a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    Delivered,
    Dead,
    Poison,
    Parked,
}

/// Kinds of events, by what happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// 451 at its first RCPT.
    Later,
    /// 550 at RCPT.
    Refused,
    /// An invalid address.
    Invalid,
    /// An unknown type.
    Stranger,
    /// Not JSON.
    Garbage,
    /// Low priority, by the routes of [`routes`].
    Low,
    /// Sent again if the outcome is unknown, by the routes of [`routes`].
    Resend,
    /// One mail to the customer and one to each of [`ADMINS`].
    FanOut,
    /// Planned for a few seconds later.
    Planned,
}

/// A dozen of everything.
pub(crate) const MIX: [Kind; 12] = [
    Kind::Planned,
    Kind::Later,
    Kind::FanOut,
    Kind::Garbage,
    Kind::Low,
    Kind::Refused,
    Kind::Planned,
    Kind::Resend,
    Kind::Stranger,
    Kind::Low,
    Kind::Invalid,
    Kind::Plain,
];

/// One delivery that an event must lead to.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Empty for a message that never becomes a delivery.
    pub(crate) recipient: String,
    pub(crate) ends: &'static [End],
    /// The route sends again if the outcome is unknown.
    pub(crate) resend: bool,
}

/// An event as published.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) deliveries: Vec<Expected>,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl Published {
    /// An event of this kind; the number makes id and recipient unique.
    pub(crate) fn new(kind: Kind, number: usize) -> Self {
        let id = format!("{kind:?}-{number}").to_lowercase();
        let recipient = match kind {
            Kind::Invalid => format!("nobody {id}"),
            _ => format!("{id}@example.com"),
        };
        // A booking for each, because some events would supersede others.
        let own = |event| with(event, &json!({"booking_id": id}));
        let mail = own(booking(&id, &recipient));
        let body = match kind {
            Kind::Plain | Kind::Later | Kind::Refused | Kind::Invalid => mail,
            Kind::Stranger => with(mail, &json!({"event_type": "booking.unheard_of"})),
            Kind::Garbage => Value::Null,
            Kind::Low => with(mail, &json!({"event_type": "booking.reminder"})),
            Kind::Resend => with(mail, &json!({"event_type": "booking.cancelled"})),
            Kind::Planned => {
                let due = Timestamp::now() + LATER;
                with(mail, &json!({"deliver_at": due.to_string()}))
            }
            Kind::FanOut => own(rescheduled(&id, &recipient)),
        };
        let body = if kind == Kind::Garbage { format!("{{ {id}") } else { body.to_string() };
        let ends: &[End] = match kind {
            Kind::Refused | Kind::Invalid => &[End::Dead],
            Kind::Stranger | Kind::Garbage => &[End::Poison],
            _ => &[End::Delivered, End::Parked],
        };
        let recipients = match kind {
            Kind::Stranger | Kind::Garbage => vec![String::new()],
            Kind::FanOut => ADMINS.map(ToOwned::to_owned).into_iter().chain([recipient]).collect(),
            _ => vec![recipient],
        };
        let expected = |recipient| Expected { recipient, ends, resend: kind == Kind::Resend };
        let deliveries = recipients.into_iter().map(expected).collect();
        Self { id, body, deliveries }
    }

    /// Scripts the mail server for its kind.
    pub(crate) fn instruct(&self, kind: Kind, smtp: &SmtpServer) {
        let recipient = &self.deliveries[0].recipient;
        match kind {
            Kind::Later => smtp.at(Phase::Rcpt).to(recipient).once().reply("451 4.2.1 later"),
            Kind::Refused => smtp.at(Phase::Rcpt).to(recipient).reply("550 5.1.1 nobody"),
            _ => {}
        }
    }
}

/// This many events of these kinds in turn, with the mail server scripted.
pub(crate) fn batch(kinds: &[Kind], count: usize, smtp: &SmtpServer) -> Vec<Published> {
    let kinds = kinds.iter().copied().cycle().take(count);
    let published = kinds.enumerate().map(|(number, kind)| {
        let published = Published::new(kind, number);
        published.instruct(kind, smtp);
        published
    });
    published.collect()
}

/// The shipped routes, but reminders are of low priority and cancellations may be sent again.
pub(crate) fn routes() -> String {
    let shipped = include_str!("../../config/routes.toml");
    let routes = shipped.split("[[route]]").map(|route| {
        if route.contains("name = \"booking-reminder\"") {
            route.replace("priority = \"high\"", "priority = \"low\"")
        } else if route.contains("name = \"booking-cancelled\"") {
            route.replace("on_unknown = \"park\"", "on_unknown = \"resend\"")
        } else {
            route.to_owned()
        }
    });
    routes.collect::<Vec<_>>().join("[[route]]")
}
