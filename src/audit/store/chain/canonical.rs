//! The canonical form of a value: bytes that don't depend on the order of fields or on how a driver prints
//! numbers. docs/evidence.md describes it.

use mongodb::bson::{RawBsonRef, RawDocument};

/// A document that can't be read, or has a type that usher never writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has a value that usher never writes")]
pub(super) struct Malformed;

/// Fields by name, sorted by the bytes of their names.
pub(super) type Fields<'d> = Vec<(&'d str, RawBsonRef<'d>)>;

pub(super) fn fields(document: &RawDocument) -> Result<Fields<'_>, Malformed> {
    let mut fields = Vec::with_capacity(document.as_bytes().len() / 48 + 4);
    for field in document {
        let (name, value) = field.map_err(|_| Malformed)?;
        fields.push((name.as_str(), value));
    }
    fields.sort_unstable_by_key(|(name, _)| *name);
    Ok(fields)
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, b's', text.len());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_integer(out: &mut Vec<u8>, number: i64) {
    put_decimal(out, b'i', number);
}

pub(super) fn put_time(out: &mut Vec<u8>, milliseconds: i64) {
    put_decimal(out, b'm', milliseconds);
}

pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, b'b', bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn put_fields(out: &mut Vec<u8>, fields: &Fields<'_>) -> Result<(), Malformed> {
    out.push(b'{');
    for (name, value) in fields {
        put_text(out, name);
        put(out, *value)?;
    }
    out.push(b'}');
    Ok(())
}

pub(super) fn put(out: &mut Vec<u8>, value: RawBsonRef<'_>) -> Result<(), Malformed> {
    match value {
        RawBsonRef::Null => out.push(b'n'),
        RawBsonRef::Boolean(true) => out.push(b't'),
        RawBsonRef::Boolean(false) => out.push(b'f'),
        RawBsonRef::Int32(number) => put_integer(out, number.into()),
        RawBsonRef::Int64(number) => put_integer(out, number),
        RawBsonRef::Double(number) => {
            out.push(b'd');
            put_hex(out, &number.to_be_bytes());
        }
        RawBsonRef::DateTime(time) => put_time(out, time.timestamp_millis()),
        RawBsonRef::String(text) => put_text(out, text),
        RawBsonRef::Binary(binary) => put_binary(out, binary.bytes),
        RawBsonRef::ObjectId(id) => {
            out.push(b'o');
            out.extend_from_slice(id.to_hex().as_bytes());
        }
        RawBsonRef::Array(items) => {
            out.push(b'[');
            for item in items {
                put(out, item.map_err(|_| Malformed)?)?;
            }
            out.push(b']');
        }
        RawBsonRef::Document(document) => put_fields(out, &fields(document)?)?,
        _ => return Err(Malformed),
    }
    Ok(())
}

fn put_length(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    put_digits(out, length as u64);
    out.push(b':');
}

fn put_decimal(out: &mut Vec<u8>, tag: u8, number: i64) {
    out.push(tag);
    if number < 0 {
        out.push(b'-');
    }
    put_digits(out, number.unsigned_abs());
    out.push(b';');
}

/// In decimal. `write!` would take a fifth of the time of a record.
fn put_digits(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    while number > 0 || first == digits.len() {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[first..]);
}

/// In lower case.
pub(super) fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    out.extend(bytes.iter().flat_map(digits));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mongodb::bson::{self, DateTime, doc, oid::ObjectId};

    use super::*;

    fn form(document: &bson::Document) -> String {
        let raw = bson::serialize_to_raw_document_buf(document).unwrap();
        let mut out = Vec::new();
        put_fields(&mut out, &fields(&raw).unwrap()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_has_one_form_whatever_the_order_of_its_fields() {
        let one = doc! {
            "b": [1, -2_i64, 25.5, true, null_of()], "a": {"é": "ñandú", "at": DateTime::from_millis(-5)},
            "id": ObjectId::from_bytes([7; 12]),
        };
        let other = doc! {
            "id": ObjectId::from_bytes([7; 12]), "a": {"at": DateTime::from_millis(-5), "é": "ñandú"},
            "b": [1_i64, -2, 25.5, true, null_of()],
        };
        let expected = "{s1:a{s2:atm-5;s2:és7:ñandú}s1:b[i1;i-2;d4039800000000000tn]s2:ido070707070707070707070707}";
        assert_eq!(form(&one), expected);
        assert_eq!(form(&other), expected);
        assert_ne!(form(&doc! {"a": 1}), form(&doc! {"a": 1.0}));
        let extremes = doc! {"a": [0, 10, i64::MIN, i64::MAX], "t": "x".repeat(10)};
        let expected =
            "{s1:a[i0;i10;i-9223372036854775808;i9223372036854775807;]s1:ts10:xxxxxxxxxx}";
        assert_eq!(form(&extremes), expected);
    }

    fn null_of() -> bson::Bson {
        bson::Bson::Null
    }
}
