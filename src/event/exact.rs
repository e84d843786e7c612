//! Parses JSON without losing digits of numbers.
//!
//! serde_json rounds numbers beyond 64 bits and most fractions to a float, so two ids that differ in the
//! last digit would be one. Its feature `arbitrary_precision` would keep the digits, but it applies to all
//! crates of the build, and `jsonwebtoken` can't read `exp` with it. Therefore a number that would be
//! rounded becomes a text before parsing: ids are texts, and amounts may be.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// Numbers of at most this length keep all digits, unless they have an exponent: a float has 15 decimal
/// digits.
const ALWAYS_EXACT: usize = 15;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses JSON, with a text in place of each number that serde_json would round.
///
/// # Errors
/// The body is not JSON.
pub fn from_slice(json: &[u8]) -> serde_json::Result<Value> {
    // Programs of .NET write one; RFC 8259 8.1 allows to ignore it.
    let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
    serde_json::from_slice(&exact(json))
}

/// JSON that serde_json can parse without loss. Invalid JSON stays invalid.
pub fn exact(json: &[u8]) -> Cow<'_, [u8]> {
    let mut exact: Option<Vec<u8>> = None;
    // The text up to here is copied.
    let mut copied = 0;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => at = end_of_text(json, at),
            b'-' | b'0'..=b'9' => {
                let number = &json[at..];
                let is_of_number =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = number.iter().position(|byte| !is_of_number(byte));
                let number = &number[..length.unwrap_or(number.len())];
                if loses_digits(number) {
                    let exact = exact.get_or_insert_with(|| Vec::with_capacity(json.len() + 16));
                    exact.extend_from_slice(&json[copied..at]);
                    exact.push(b'"');
                    exact.extend_from_slice(number);
                    exact.push(b'"');
                    copied = at + number.len();
                }
                at += number.len();
            }
            _ => at += 1,
        }
    }
    match exact {
        None => Cow::Borrowed(json),
        Some(mut exact) => {
            exact.extend_from_slice(&json[copied..]);
            Cow::Owned(exact)
        }
    }
}

/// Deepest nesting that serde_json parses.
const DEPTH: usize = 128;

/// Upper bound of the number of values, from the signs before and between values. Values nested deeper
/// than the limit are not counted.
pub fn values(json: &[u8]) -> usize {
    let (mut values, mut depth) = (1, 0_usize);
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at = end_of_text(json, at);
                continue;
            }
            b',' | b':' => values += 1,
            b'[' | b'{' if depth > DEPTH => return values,
            b'[' | b'{' => (values, depth) = (values + 1, depth + 1),
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    values
}

/// End of the string that begins here.
fn end_of_text(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

fn loses_digits(number: &[u8]) -> bool {
    let has_exponent = number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    if number.len() <= ALWAYS_EXACT && !has_exponent {
        return false;
    }
    let Ok(number) = str::from_utf8(number) else { return false };
    // The parser refuses what is not a number, or far from any float.
    let Ok(read) = serde_json::from_str::<Number>(number) else { return false };
    decimal(number) != decimal(&read.to_string())
}

/// Sign, digits without leading and trailing zeros, and the exponent of the last digit.
fn decimal(number: &str) -> Option<(bool, String, i64)> {
    let (is_negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let dropped = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0').to_owned();
    let power = match significant.is_empty() {
        true => 0,
        false => exponent.checked_add(dropped as i64 - fraction.len() as i64)?,
    };
    Some((is_negative, significant, power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_float_would_round_is_a_text() {
        let read = |number: &str| {
            let value =
                from_slice(format!("{{\"a\": [{number}], \"b\": \"\\\"{number}\"}}").as_bytes());
            value.map(|value| value["a"][0].clone())
        };
        for kept in [
            "0",
            "-1",
            "25.50",
            "18446744073709551615",
            "-9223372036854775808",
            "1e3",
            "1.5E-7",
            "0.000000000000000000",
            "100000000000000000000",
            "-0.0",
            "1.0e0",
        ] {
            assert!(read(kept).unwrap().is_number(), "{kept}");
        }
        for rounded in [
            "18446744073709551616",
            "18446744073709551617",
            "-9223372036854775809",
            "9007199254740993.0",
            "0.1000000000000000055511151231257827",
            "123456789012345678901234567890",
            "1e-400",
            "-123456789.123456789123456789",
        ] {
            assert_eq!(read(rounded).unwrap(), Value::from(rounded), "{rounded}");
        }
        for refused in ["1e999", "01", "1.", "--1", "1e", "-"] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        for json in [
            "",
            "\"",
            "\"\\",
            "{\"a\\\"18446744073709551617\": \"18446744073709551617\"}",
            "[1, 2.5, null]",
            "\u{feff}{}",
            "{\"ñ\": \"\\u0031\"}",
            "nonsense 7",
        ] {
            assert!(
                matches!(exact(json.as_bytes()), Cow::Borrowed(same) if same == json.as_bytes()),
                "{json}"
            );
        }
        let json = b"[18446744073709551616,{\"id\":-18446744073709551617}, 3]";
        let expected = b"[\"18446744073709551616\",{\"id\":\"-18446744073709551617\"}, 3]";
        assert_eq!(exact(json).as_ref(), expected);
    }

    #[test]
    fn values_are_counted_outside_of_texts() {
        assert_eq!(values(b"{\"a,b\": [1,2,{}], \"c\": \"[[[\\\",\"}"), 9);
        assert_eq!(values(format!("[{}1]", "1,".repeat(1000)).as_bytes()), 1002);
        assert_eq!(values("[".repeat(100_000).as_bytes()), DEPTH + 2);
    }
}
