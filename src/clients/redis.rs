use std::time::Duration;

use redis::{
    Client, ClientTlsConfig, ConnectionInfo, RedisError, RedisResult, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use crate::{
    config::Endpoint,
    tls::{Pem, Renewed},
};

/// A connection that is opened at first use, and again when it is lost or its certificates have
/// changed. `answer` limits the time for one reply.
pub(crate) fn connect(
    service: &'static str,
    server: &Endpoint,
    answer: Duration,
) -> Result<Renewed<ConnectionManager>, String> {
    let info = server.url.expose().parse::<ConnectionInfo>().map_err(|error| error.to_string())?;
    // Otherwise a connection that swallows commands would live as long as the kernel retransmits.
    let info = info.set_tcp_settings(TcpSettings::default().set_user_timeout(answer));
    let make = move |pem: &Pem| manager(&info, pem, answer).map_err(|error| error.to_string());
    Renewed::new(service, server.tls.clone(), make)
}

/// Has a new connection made after an answer that says that this one is of no use: a server that takes
/// commands and never answers, or one that is no primary any more, is not given up by itself. After a
/// failover the address may lead to another server.
pub(crate) fn again_where_useless<T>(
    connection: &Renewed<ConnectionManager>,
    answer: &RedisResult<T>,
) {
    if let Err(error) = answer
        && is_useless(error)
    {
        connection.rebuild();
    }
}

fn is_useless(error: &RedisError) -> bool {
    // The client knows these codes and spells them in its own way. Before Redis 7 the error of a script
    // contains the code.
    const OF_REPLICAS: [&str; 2] = ["READONLY", "MASTERDOWN"];
    let text = error.to_string().to_uppercase();
    error.is_timeout() || OF_REPLICAS.iter().any(|code| text.contains(code))
}

fn manager(info: &ConnectionInfo, pem: &Pem, answer: Duration) -> RedisResult<ConnectionManager> {
    let client = if *pem == Pem::default() {
        Client::open(info.clone())?
    } else {
        let client_tls = pem.identity.clone();
        let certificates = TlsCertificates {
            client_tls: client_tls
                .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: pem.ca.clone(),
        };
        Client::build_with_tls(info.clone(), certificates)?
    };
    // No retries here: the caller decides how long to wait.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_secs(1))
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(answer));
    ConnectionManager::new_lazy_with_config(client, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_a_replica_is_of_no_use() {
        let is_useless = |answer: &[u8]| {
            let value = redis::parse_redis_value(answer).expect("an answer");
            is_useless(&value.extract_error().expect_err("an error"))
        };
        for answer in [
            "-READONLY You can't write against a read only replica.",
            "-READONLY You can't write against a read only replica. script: 7f923f79fe76194c868d7e1d0820de36700eb649, on @user_script:1.",
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "-ERR Error running script (call to f_7f92): @user_script:1: -READONLY You can't write against a read only replica.",
        ] {
            assert!(is_useless(format!("{answer}\r\n").as_bytes()), "{answer}");
        }
        for answer in
            ["-BUSYGROUP Consumer Group name already exists", "-NOSCRIPT No matching script."]
        {
            assert!(!is_useless(format!("{answer}\r\n").as_bytes()), "{answer}");
        }
    }
}
