//! Text messages over a gateway with Twilio's REST API
//! (<https://www.twilio.com/docs/messaging/api/message-resource>).

mod gateway;
mod segments;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::gateway::{Answer, Connection, Gateway};
use super::{
    Attempted, Channel, Outcome, Outgoing, Slot, SlotRequest, circuit_breaker::CircuitBreaker,
};
use crate::{audit::Smtp, config::Twilio, health::Dependency, redaction::mask_secrets};

/// Longest text that gateways accept, in segments. Twilio accepts 1600 characters.
const MAX_SEGMENTS: usize = 10;

pub struct SmsChannel {
    gateway: Arc<Gateway>,
    places: Arc<Semaphore>,
    circuit_breaker: Arc<CircuitBreaker>,
}

impl SmsChannel {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The settings can't be used.
    pub fn new(settings: &Twilio, health: Dependency) -> Result<Self, String> {
        let places = Arc::new(Semaphore::new(settings.connections));
        let gateway = Arc::new(Gateway::new(settings.clone())?);
        Ok(Self { gateway, places, circuit_breaker: Arc::new(CircuitBreaker::new(health)) })
    }

    /// Fetches the account from the gateway.
    ///
    /// # Errors
    /// The gateway does not answer, or refuses our credentials.
    pub async fn test(settings: &Twilio) -> Result<(), String> {
        Gateway::new(settings.clone())?.test().await
    }
}

/// Checks that a number is in E.164 form: `+` and 7 to 15 digits.
///
/// # Errors
/// The reason, without the number.
pub fn check_recipient(number: &str) -> Result<(), String> {
    let digits = number.strip_prefix('+').unwrap_or_default();
    let is_number = (7..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    // The number itself is personal data and stays out of the reason.
    is_number.then_some(()).ok_or_else(|| "invalid number: E.164 is a + and 7 to 15 digits".into())
}

/// Number of billed segments of a text.
pub(crate) fn segments(text: &str) -> usize {
    segments::count(text)
}

/// The text and its number of segments.
///
/// # Errors
/// The text is empty or too long.
fn text(message: &Outgoing) -> Result<(&str, usize), String> {
    let text = message.rendered.text.trim();
    match segments::count(text) {
        0 => Err("the text is empty".to_owned()),
        count if count > MAX_SEGMENTS => {
            Err(format!("the text takes {count} segments, more than {MAX_SEGMENTS}"))
        }
        count => Ok((text, count)),
    }
}

#[async_trait]
impl Channel for SmsChannel {
    fn check_recipient(&self, number: &str) -> Result<(), String> {
        check_recipient(number)
    }

    async fn ready(&self, _request: SlotRequest<'_>) -> Box<dyn Slot> {
        // Never closed, so acquiring can't fail.
        let place = self.places.clone().acquire_owned().await.unwrap_or_else(|_| unreachable!());
        loop {
            if let Some(until) = self.circuit_breaker.open_until() {
                tokio::time::sleep_until(until.into()).await;
                continue;
            }
            match self.gateway.connect().await {
                Ok(connection) => {
                    self.circuit_breaker.connected();
                    let (gateway, circuit_breaker) =
                        (self.gateway.clone(), self.circuit_breaker.clone());
                    return Box::new(SmsSlot {
                        gateway,
                        connection,
                        circuit_breaker,
                        _place: place,
                    });
                }
                Err(reason) => self.circuit_breaker.trip(&reason, false),
            }
        }
    }
}

struct SmsSlot {
    gateway: Arc<Gateway>,
    connection: Connection,
    circuit_breaker: Arc<CircuitBreaker>,
    _place: OwnedSemaphorePermit,
}

#[async_trait]
impl Slot for SmsSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        self.post(message, latch).await.into()
    }
}

impl SmsSlot {
    async fn post(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        let (text, segments) = match text(message) {
            Ok(found) => found,
            Err(reason) => return Outcome::Impossible(reason),
        };
        let request = match self.gateway.message(&message.recipient, text) {
            Ok(request) => request,
            Err(reason) => return Outcome::Impossible(reason),
        };
        if !latch.await {
            return Outcome::Withheld;
        }
        match self.gateway.ask(self.connection, request).await {
            Err(error) if error.is_unsent => Outcome::Interrupted(error.reason, None),
            Err(error) => Outcome::Unknown(error.reason, None),
            Ok(answer) => {
                // Gateways often repeat the number in a refusal, and the reply is logged.
                let text = mask_secrets(&answer.text, std::slice::from_ref(&message.recipient));
                self.circuit_breaker.classify(
                    Answer { text, ..answer },
                    segments,
                    self.gateway.server(),
                )
            }
        }
    }
}

impl CircuitBreaker {
    /// The outcome for this message; opens or closes the breaker for the next ones.
    fn classify(&self, answer: Answer, segments: usize, server: &str) -> Outcome {
        let reply = Smtp {
            server: server.to_owned(),
            command: "POST".to_owned(),
            code: answer.status,
            enhanced: answer.code.map(|code| code.to_string()),
            reply: match answer.status {
                200..300 => format!("{}, {segments} segments", answer.text),
                _ => answer.text,
            },
            relay: None,
            queue_id: None,
        };
        let reason = format!("POST answered {} {}", reply.code, reply.reply);
        match answer.status {
            200..300 => {
                self.close();
                Outcome::Sent(Some(reply))
            }
            // Our account or our rate is at fault, not this message.
            401 | 404 | 429 | 503 => {
                match answer.retry_after {
                    Some(wait) => self.trip_for(&reason, wait),
                    None => self.trip(&reason, true),
                }
                Outcome::Unavailable(reason, Some(reply))
            }
            status => {
                match answer.retry_after {
                    Some(wait) => self.trip_for(&reason, wait),
                    None => self.close(),
                }
                Outcome::Refused { reply, permanent: (400..500).contains(&status) && status != 408 }
            }
        }
    }
}

/// The channel without a gateway: it checks each message and sends none.
pub struct SimulatedSms;

#[async_trait]
impl Channel for SimulatedSms {
    fn check_recipient(&self, number: &str) -> Result<(), String> {
        check_recipient(number)
    }

    async fn ready(&self, _request: SlotRequest<'_>) -> Box<dyn Slot> {
        Box::new(Self)
    }
}

#[async_trait]
impl Slot for SimulatedSms {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        let outcome = match text(message) {
            Err(reason) => Outcome::Impossible(reason),
            Ok(_) if latch.await => Outcome::Simulated,
            Ok(_) => Outcome::Withheld,
        };
        outcome.into()
    }
}

#[cfg(test)]
mod tests {
    use super::check_recipient;

    #[test]
    fn numbers_are_those_of_e164() {
        for number in ["+14155550100", "+573001234567", "+34600123456", "+4790123"] {
            check_recipient(number).unwrap();
        }
        for number in [
            "",
            "+",
            "14155550100",
            "+0415555010",
            "+1 415 555 0100",
            "+1415555010012345",
            "+141555",
            "+1415555o100",
            "+１４１５５５５０１００",
            "ana@example.com",
        ] {
            assert!(check_recipient(number).is_err(), "{number}");
        }
    }
}
