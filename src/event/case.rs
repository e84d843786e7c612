//! Names in Pascal case, as some publishers and templates write them.

use heck::ToSnakeCase;
use serde_json::{Map, Value};

/// Converts `IPAddress` to `ip_address`. A name that does not begin with a capital stays as it is.
pub fn snake_case(name: &str) -> String {
    match name.starts_with(|first: char| first.is_ascii_uppercase()) {
        true => name.to_snake_case(),
        false => name.to_owned(),
    }
}

/// Renames fields to snake case. If two names become the same, the one in snake case wins.
pub(super) fn snake_fields(fields: Map<String, Value>) -> Map<String, Value> {
    if !fields.keys().any(|name| name.starts_with(|first: char| first.is_ascii_uppercase())) {
        return fields;
    }
    let mut snake = Map::new();
    let mut renamed = Vec::new();
    for (name, value) in fields {
        match snake_case(&name) {
            unchanged if unchanged == name => drop(snake.insert(name, value)),
            changed => renamed.push((changed, value)),
        }
    }
    for (name, value) in renamed {
        snake.entry(name).or_insert(value);
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pascal_case_becomes_snake_case() {
        for (pascal, snake) in [
            ("FullName", "full_name"),
            ("IPAddress", "ip_address"),
            ("CurrentYear", "current_year"),
            ("SecuritySettingsUrl", "security_settings_url"),
            ("TwoFactorAuthCode", "two_factor_auth_code"),
            ("SHA256Hash", "sha256_hash"),
            ("Seat1A", "seat1_a"),
            ("full_name", "full_name"),
            ("fullName", "fullName"),
            ("ContactSupportURL", "contact_support_url"),
        ] {
            assert_eq!(snake_case(pascal), snake);
        }
    }

    #[test]
    fn fields_are_renamed_and_snake_case_wins() {
        let fields = serde_json::json!({"EventType": "x", "FullName": "A", "full_name": "B"});
        let Value::Object(fields) = fields else { panic!() };
        let expected = serde_json::json!({"event_type": "x", "full_name": "B"});
        assert_eq!(Value::Object(snake_fields(fields)), expected);
    }
}
