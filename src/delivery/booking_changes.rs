//! The life of a booking: what changes it is kept before the event's own mail is looked at, voids
//! what is planned, moves the reminder, and overtakes what comes late.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Pipeline, context::DeliveryContext};
use crate::{
    audit::Status,
    broker::Message,
    event::{self, Event, Properties},
    routing::{Delivery, DeliveryId, Lifecycle, Lookup, Recipient, Route},
    scheduler::{Booking, NoReminder, Planned, State, Version, remind_at},
    trace,
};

/// Fields that are about the mail which the event asks for, not about its booking.
const OF_THE_MAIL: [&str; 4] = ["attachments", "dedup_key", "deliver_at", "deliver_before"];

impl Pipeline {
    /// Does what the event means for its booking; durable when this returns. A change is kept first
    /// and what is planned looked at second, while what is planned late is written first and the
    /// change looked at second: whichever way the two cross, one of them sees the other.
    pub(super) async fn follow_booking(&self, message: &Message, event: &Event) {
        let Lookup::Routes(routes) = self.routing.lookup(&event.kind) else { return };
        let Some(part) = routes.iter().find_map(|route| route.lifecycle) else { return };
        let Some(id) = event.booking_id() else { return };
        let rule = routes.iter().find_map(|route| route.reminder.as_ref());
        let showtime = rule.and_then(|rule| event.text(&rule.showtime));
        if part.changes() {
            let booking = Booking {
                id,
                state: part,
                event_id: event.id.value.clone(),
                event_type: event.kind.clone(),
                version: Version::from_event(event, message),
                showtime: showtime.map(ToOwned::to_owned),
                timezone: event.text("timezone").map(ToOwned::to_owned),
                purge_at: self.purge_at(crate::clock::now(), None),
                is_corrected: event.is_corrected,
            };
            let booking = self.change_booking(booking).await;
            crash_point!("after_lifecycle");
            self.apply(&booking).await;
        } else if let (Lifecycle::Confirmed, Some(rule), Some(showtime)) = (part, rule, showtime)
            && let Some(route) = self.routing.route(&rule.route)
            && self.remind(route, event.fields.clone(), event, message, showtime).await
            && let Some(booking) = self.booking(&id).await
        {
            self.apply(&booking).await;
        }
    }

    /// Why this delivery makes no sense any more.
    pub(super) async fn superseded(&self, ctx: &DeliveryContext<'_>) -> Option<String> {
        let (event, delivery) = (ctx.event, ctx.delivery);
        let part = delivery.route.lifecycle;
        let part = part.filter(|part| part.is_superseded(Lifecycle::Cancelled))?;
        let booking = self.booking(&event.booking_id()?).await?;
        let version = Version::from_event(event, ctx.message);
        booking.supersedes(part, &event.id.value, &version).then(|| booking.reason())
    }

    /// Brings what is planned for a booking in line with it. Doing it again changes nothing.
    async fn apply(&self, booking: &Booking) {
        let planned = self.planned_for(&booking.id).await;
        for one in &planned {
            let route = self.routing.route(&one.delivery_headers.route);
            if let Some((route, part)) = route.and_then(|route| Some((route, route.lifecycle?)))
                && booking.supersedes(part, &one.delivery_headers.event_id, &one.version)
            {
                self.supersede(one, route, booking.reason()).await;
            }
        }
        if booking.state == Lifecycle::Rescheduled {
            self.move_reminder(booking, &planned).await;
        }
    }

    /// What is claimed by now is looked at again when it is about to be sent.
    async fn supersede(&self, planned: &Planned, route: &Arc<Route>, reason: String) {
        let voided = match planned.state {
            State::Planned => self.cancel(&planned.delivery_id, &reason).await,
            // A process may have ended between this and the record.
            State::Cancelled => planned.reason.as_ref() == Some(&reason),
            State::Claimed | State::Published => false,
        };
        let message = Message {
            body: planned.body.clone().into_bytes(),
            properties: planned.properties.clone(),
            queue: planned.delivery_headers.origin.clone(),
            redelivered: false,
            received_at: crate::clock::now(),
            delivery_headers: Some(planned.delivery_headers.clone()),
            is_authentic: true,
        };
        let event = event::parse(&message.body, &message.properties, message.origin());
        if let (true, Ok(event)) = (voided, event) {
            let recipient = Recipient::Address(planned.delivery_headers.recipient.clone());
            let (id, attempt) = (planned.delivery_id.clone(), planned.delivery_headers.attempt);
            let delivery = Delivery::republished(id, route.clone(), &event, recipient, attempt);
            let instance = &self.policy.claims_as;
            let mut ctx = DeliveryContext::new(&message, &event, &delivery, &trace::NONE, instance);
            ctx.reason = reason;
            crash_point!("after_void");
            self.record_unclaimed(&ctx, Status::Superseded).await;
        }
    }

    /// The reminder of a booking that takes place at another time now: as it was planned last, with
    /// the new time and in the name of the event that tells it.
    async fn move_reminder(&self, booking: &Booking, planned: &[Planned]) {
        let is_reminder = |route: &&Arc<Route>| route.lifecycle == Some(Lifecycle::Reminder);
        let mut reminders = planned.iter().filter_map(|one| {
            Some((one, self.routing.route(&one.delivery_headers.route).filter(is_reminder)?))
        });
        let Some((last, route)) = reminders.next() else { return };
        let Some(showtime) = &booking.showtime else { return };
        let planned_by = &last.delivery_headers.event_id;
        let is_corrected = booking.is_corrected && booking.event_id == *planned_by;
        if !is_corrected && !booking.supersedes(Lifecycle::Reminder, planned_by, &last.version) {
            return;
        }
        let Ok(Value::Object(mut fields)) = event::read_json(last.body.as_bytes()) else { return };
        match booking.version.sequence {
            Some(sequence) => drop(fields.insert("sequence".into(), sequence.into())),
            None => drop(fields.remove("sequence")),
        }
        if let Some(zone) = &booking.timezone {
            fields.insert("timezone".into(), zone.as_str().into());
        }
        let message = Message {
            body: Vec::new(),
            properties: last.properties.clone(),
            queue: last.delivery_headers.origin.clone(),
            redelivered: false,
            received_at: booking.version.arrived_at,
            delivery_headers: None,
            is_authentic: true,
        };
        let Ok(mut event) = event::parse(last.body.as_bytes(), &last.properties, message.origin())
        else {
            return;
        };
        event.id.value.clone_from(&booking.event_id);
        event.occurred_at = booking.version.occurred_at;
        event.is_corrected = booking.is_corrected;
        self.remind(route, fields, &event, &message, showtime).await;
    }

    /// Plans the reminder that `event` asks for, made from these fields; whether there is one. That of a corrected
    /// event takes the place of what the event planned before.
    async fn remind(
        &self,
        route: &Arc<Route>,
        fields: Map<String, Value>,
        event: &Event,
        message: &Message,
        showtime: &str,
    ) -> bool {
        let reminder = self.reminder(route, fields, event, message, showtime);
        let mut planned = HashSet::new();
        if let Some((message, event, due)) = &reminder
            && let Lookup::Routes(routes) = self.routing.lookup(&event.kind)
        {
            // Over every channel that reminds, as upstream's own event would.
            for delivery in self.routing.deliveries(routes, event, &self.identity) {
                if matches!(delivery.recipient, Recipient::Address(_)) {
                    let instance = &self.policy.claims_as;
                    let mut ctx =
                        DeliveryContext::new(message, event, &delivery, &trace::NONE, instance);
                    self.schedule(&mut ctx, *due).await;
                    planned.insert(delivery.id);
                }
            }
        }
        if event.is_corrected {
            self.withdraw(event, &planned).await;
        }
        reminder.is_some()
    }

    /// Voids the reminders that an event planned before it was corrected, except these.
    async fn withdraw(&self, event: &Event, kept: &HashSet<DeliveryId>) {
        let Some(booking) = event.booking_id() else { return };
        for one in self.planned_for(&booking).await {
            let is_of_event = one.delivery_headers.event_id == event.id.value;
            if is_of_event
                && !kept.contains(&one.delivery_id)
                && let Some(route) = self.routing.route(&one.delivery_headers.route)
                && route.lifecycle == Some(Lifecycle::Reminder)
            {
                self.supersede(&one, route, format!("event {} was corrected", event.id.value))
                    .await;
            }
        }
    }

    /// The event of a reminder, and when it is due; `None` if there is none.
    fn reminder(
        &self,
        route: &Route,
        mut fields: Map<String, Value>,
        event: &Event,
        message: &Message,
        showtime: &str,
    ) -> Option<(Message, Event, Timestamp)> {
        let before = self.policy.reminder_before?;
        for name in OF_THE_MAIL {
            fields.remove(name);
        }
        for (name, value) in [
            ("event_type", Some(route.event.clone())),
            ("event_id", Some(event.id.value.clone())),
            ("occurred_at", event.occurred_at.map(|at| at.to_string())),
            ("showtime", Some(showtime.to_owned())),
        ] {
            fields.insert(name.to_owned(), value.map_or(Value::Null, Value::String));
        }
        let message = Message {
            body: Value::Object(fields).to_string().into_bytes(),
            properties: Properties {
                correlation_id: message.properties.correlation_id.clone(),
                traceparent: message.properties.traceparent.clone(),
                ..Properties::default()
            },
            queue: message.origin().to_owned(),
            redelivered: false,
            received_at: message.arrived_at(),
            delivery_headers: None,
            is_authentic: true,
        };
        let mut reminder =
            event::parse(&message.body, &message.properties, message.origin()).ok()?;
        reminder.is_corrected = event.is_corrected;
        let zone = reminder.zone().or_else(|| self.composer.zone.clone());
        match remind_at(showtime, zone.as_ref(), before, crate::clock::now()) {
            Ok(due) => Some((message, reminder, due)),
            Err(NoReminder::Past) => None,
            Err(reason) => {
                tracing::warn!(event.id = event.id.value, %reason, "no reminder is planned");
                None
            }
        }
    }
}
