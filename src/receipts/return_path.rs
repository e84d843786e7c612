//! The envelope's sender of a mail, which names its delivery (VERP): `bounces+<id><code>@example.com`.

use memchr::memchr_iter;
use subtle::ConstantTimeEq;

use crate::routing::{DeliveryId, Identity};

/// Digits of a delivery id.
const ID: usize = 32;
/// Digits of the code that shows that usher made the address: 48 bits.
const CODE: usize = 12;
/// Longest local part (RFC 5321 4.5.3.1.1), in bytes.
const MAX_LOCAL: usize = 64;
/// What is left for the local part of `BOUNCE_ADDRESS`.
const MAX_OWN: usize = MAX_LOCAL - 1 - ID - CODE;

/// Where reports about mail are to be sent.
#[derive(Debug, Clone)]
pub struct ReturnPath {
    local: String,
    domain: String,
    identity: Identity,
}

impl ReturnPath {
    /// # Errors
    /// The address is none, or leaves no room for the delivery.
    pub fn new(address: &str, identity: Identity) -> Result<Self, String> {
        let Some((local, domain)) = address.rsplit_once('@') else {
            return Err(format!("{address:?} is not a mail address"));
        };
        if local.len() > MAX_OWN || !address.is_ascii() {
            return Err(format!(
                "must be ASCII and have at most {MAX_OWN} characters before the @"
            ));
        }
        Ok(Self { local: local.to_owned(), domain: domain.to_owned(), identity })
    }

    /// The address for reports about this delivery. Case carries nothing: some servers change it.
    pub fn address(&self, delivery: &DeliveryId) -> String {
        let (local, code) = (&self.local, code(&self.identity, delivery));
        format!("{local}+{delivery}{code}@{}", self.domain)
    }

    /// An address as long as any other, of no delivery.
    pub fn sample(&self) -> String {
        format!("{}+{}@{}", self.local, "0".repeat(ID + CODE), self.domain)
    }

    /// The address for mail that is no delivery.
    pub fn plain(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }
}

fn code(identity: &Identity, delivery: &DeliveryId) -> String {
    let mut code = identity.bounce_code(delivery);
    code.truncate(CODE);
    code
}

/// The first delivery that an address in the text names with the right code.
pub(super) fn find(text: &[u8], identity: &Identity) -> Option<DeliveryId> {
    memchr_iter(b'+', text).find_map(|plus| {
        let rest = &text[plus + 1..];
        let token = str::from_utf8(rest.get(..ID + CODE)?).ok()?.to_ascii_lowercase();
        if rest.get(ID + CODE).is_some_and(u8::is_ascii_alphanumeric) {
            return None;
        }
        let (id, given) = token.split_at(ID);
        let id = DeliveryId::from_stored(id).ok()?;
        bool::from(code(identity, &id).as_bytes().ct_eq(given.as_bytes())).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_names_the_delivery_in_any_case_and_only_to_those_who_made_it() {
        let identity = Identity::new("pepper");
        let id = DeliveryId::from_stored("0123456789abcdef0123456789abcdef").unwrap();
        let path = ReturnPath::new("bounces@example.com", identity.clone()).unwrap();
        let address = path.address(&id);
        assert_eq!(path.sample().len(), address.len());
        assert_eq!(find(path.sample().as_bytes(), &identity), None);
        assert!(address.split_once('@').unwrap().0.len() <= MAX_LOCAL);
        for text in [address.clone(), format!("To: <{}>\r\n", address.to_uppercase())] {
            assert_eq!(find(text.as_bytes(), &identity), Some(id.clone()), "{text}");
            assert_eq!(find(text.as_bytes(), &Identity::new("another")), None);
        }
        let other = address.replacen("0123", "0124", 1);
        assert_eq!(find(other.as_bytes(), &identity), None);
        assert_eq!(find(address.replace('@', "0@").as_bytes(), &identity), None);
        let cut = &address.as_bytes()[..50];
        assert_eq!(find(cut, &identity), None);
    }

    #[test]
    fn an_address_without_room_is_refused() {
        let new =
            |local: &str| ReturnPath::new(&format!("{local}@example.com"), Identity::new("p"));
        assert!(new(&"b".repeat(19)).is_ok());
        assert!(new(&"b".repeat(20)).is_err());
        assert!(new("añ").is_err());
    }
}
