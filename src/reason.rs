//! Why a call to a server failed, in words for operators: a driver says its causes twice, and adds what only its
//! authors need.

use lapin::{Error as AmqpError, ErrorKind as AmqpErrorKind};
use mongodb::error::{Error as MongoError, ErrorKind, WriteFailure};
use redis::RedisError;

/// An error with its causes, each said once.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let of_driver = cause
            .downcast_ref::<MongoError>()
            .map(of_mongodb)
            .or_else(|| cause.downcast_ref::<RedisError>().map(of_redis))
            .or_else(|| cause.downcast_ref::<AmqpError>().map(of_rabbitmq));
        let is_last = of_driver.is_some();
        let words = of_driver.unwrap_or_else(|| cause.to_string());
        if !text.contains(&words) {
            let joint = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{joint}{words}");
        }
        if is_last {
            break;
        }
    }
    text
}

/// As the server says it, without the script that was refused.
pub(crate) fn of_redis(error: &RedisError) -> String {
    let (Some(code), Some(detail)) = (error.code(), error.detail()) else {
        return error.to_string();
    };
    format!("{code} {}", detail.split(" script: ").next().unwrap_or(detail))
}

/// What the broker refuses, as it says it.
fn of_rabbitmq(error: &AmqpError) -> String {
    match error.kind() {
        AmqpErrorKind::ProtocolError(refusal) => refusal.get_message().to_string(),
        AmqpErrorKind::IOError(failure) => failure.to_string(),
        _ => error.to_string(),
    }
}

/// Without the driver's labels and its picture of the cluster.
pub(crate) fn of_mongodb(error: &MongoError) -> String {
    match &*error.kind {
        ErrorKind::ServerSelection { message, .. } => no_server(message),
        ErrorKind::ConnectionPoolCleared { message, .. } => message
            .split_once("Kind: ")
            .map_or_else(|| message.clone(), |(_, kind)| first_error(kind)),
        ErrorKind::Command(refusal) => refused(refusal.code, &refusal.code_name, &refusal.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(refusal)) => {
            refused(refusal.code, &refusal.code_name, &refusal.message)
        }
        ErrorKind::Write(WriteFailure::WriteError(refusal)) => refused(
            refusal.code,
            refusal.code_name.as_deref().unwrap_or_default(),
            &refusal.message,
        ),
        ErrorKind::InsertMany(failure) => {
            let of_batch = failure.write_concern_error.as_ref();
            let of_batch = of_batch.map(|e| refused(e.code, &e.code_name, &e.message));
            let of_document = || {
                let first = failure.write_errors.as_ref()?.first()?;
                let name = first.code_name.as_deref().unwrap_or_default();
                Some(refused(first.code, name, &first.message))
            };
            of_batch.or_else(of_document).unwrap_or_else(|| "no document was inserted".to_owned())
        }
        kind => kind.to_string(),
    }
}

/// As MongoDB's manual and its logs name an error.
fn refused(code: i32, name: &str, message: &str) -> String {
    match name {
        "" => format!("error {code}: {message}"),
        name => format!("{name} ({code}): {message}"),
    }
}

/// The servers and their errors, of a message such as `Server selection timeout: … { Address: a:27017, Type:
/// Unknown, Error: Kind: I/O error: Connection refused, labels: … }`.
fn no_server(message: &str) -> String {
    let of_server = |server: &str| {
        let (address, _) = server.split_once(", Type: ")?;
        let (_, error) = server.split_once("Error: Kind: ")?;
        Some(format!("{address}: {}", first_error(error)))
    };
    let servers: Vec<String> = message.split("{ Address: ").skip(1).filter_map(of_server).collect();
    match servers.as_slice() {
        [] => message.to_owned(),
        servers => servers.join("; "),
    }
}

/// The error at the beginning of what the driver printed for its authors.
fn first_error(text: &str) -> String {
    let text = text.split(", labels: ").next().unwrap_or(text);
    // A refusal of several documents is there as Rust sees it.
    let field = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let code =
        field("code: ").and_then(|rest| rest.split(',').next()).and_then(|code| code.parse().ok());
    let words = |name: &str| field(name).and_then(|rest| rest.split('"').next());
    match (code, words("message: \"")) {
        (Some(code), Some(message)) => {
            refused(code, words("code_name: \"").unwrap_or_default(), message)
        }
        _ => {
            let text = text.strip_prefix("Command failed: ").unwrap_or(text);
            // `Error code 10107 (NotWritablePrimary): not primary`
            let refusal = text.strip_prefix("Error code ").and_then(|rest| rest.split_once(" ("));
            let refusal = refusal.and_then(|(code, rest)| Some((code, rest.split_once("): ")?)));
            refusal.map_or_else(
                || text.to_owned(),
                |(code, (name, message))| format!("{name} ({code}): {message}"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_away_is_named_with_its_error_alone() {
        let message = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ \
            { Address: db-1:27017, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), \
            labels: {\"RetryableError\"}, source: None, server response: None }, { Address: db-2:27017, \
            Type: RsSecondary } ] }";
        assert_eq!(no_server(message), "db-1:27017: I/O error: Connection refused (os error 111)");
        assert_eq!(no_server("none of this kind"), "none of this kind");
    }

    #[test]
    fn a_refusal_within_another_error_is_told_as_one_of_its_own() {
        let message = "An error occurred when trying to execute an insert_many operation: InsertManyError { \
            write_errors: None, write_concern_error: Some(WriteConcernError { code: 11602, code_name: \
            \"InterruptedDueToReplStateChange\", message: \"operation was interrupted\", details: None, labels: [] \
            }), inserted_ids: {} }, labels: {}";
        assert_eq!(
            first_error(message),
            "InterruptedDueToReplStateChange (11602): operation was interrupted"
        );
        assert_eq!(
            first_error(
                "Command failed: Error code 10107 (NotWritablePrimary): not primary, labels: {}"
            ),
            "NotWritablePrimary (10107): not primary"
        );
        assert_eq!(
            first_error("I/O error: unexpected end of file, labels: {}, source: None"),
            "I/O error: unexpected end of file"
        );
    }

    #[test]
    fn a_cause_that_its_error_has_named_is_not_said_again() {
        let lost = std::io::Error::other("connection aborted");
        let error =
            anyhow::Error::new(lost).context("IO error: connection aborted").context("publishing");
        assert_eq!(explained(&error), "publishing: IO error: connection aborted");
    }

    #[test]
    fn a_refusal_of_redis_is_told_as_the_server_says_it() {
        let line = "-OOM command not allowed when used memory > 'maxmemory'. script: 9cc5dd, on @user_script:275.\r\n";
        let refusal =
            redis::parse_redis_value(line.as_bytes()).and_then(redis::Value::extract_error);
        let error = anyhow::Error::new(refusal.unwrap_err());
        assert_eq!(explained(&error), "OOM command not allowed when used memory > 'maxmemory'.");
    }
}
