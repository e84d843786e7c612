//! Redis: which server is the primary, and a connection to it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, ready},
    stream::FuturesUnordered,
};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, Pipeline,
    RedisError, RedisFuture, RedisResult, ServerError, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
    io::tcp::TcpSettings,
};
use url::Url;

use crate::{
    config::{Endpoint, RedisServers, redis_servers},
    reason::of_redis,
    tls::{Pem, Renewed},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time the address is asked for again: it may have moved to another server while the one
/// before still answers, and takes itself for the primary.
const LIFETIME: Duration = Duration::from_secs(5);

/// Shortest time between two connections, one of which was of no use.
const NOT_SOONER: Duration = Duration::from_millis(300);

/// Codes of a server that may not be the one to write to, or not any more. Before Redis 7 the error of a
/// script contains the code.
const OF_ANOTHER_SERVER: [&str; 6] =
    ["READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS", "MISCONF", "OOM"];

/// A connection that is opened at first use, and again when it is lost or its certificates have
/// changed. `answer` limits the time for one reply.
pub(crate) fn connect(
    service: &'static str,
    server: &Endpoint,
    answer: Duration,
) -> Result<Renewed<Connection>, String> {
    let servers = redis_servers(server.url.expose())?;
    let make = move |pem: &Pem| {
        let primary = Primary::new(&servers, pem, answer).map_err(|error| error.to_string())?;
        Ok(Connection::new(primary))
    };
    Renewed::new(service, server.tls.clone(), make)
}

type Opening = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// A connection to the primary; cheap to clone. A command that fails is not repeated: the caller decides
/// how long to wait.
#[derive(Clone)]
pub(crate) struct Connection(Arc<(Arc<Primary>, Mutex<Current>)>);

/// The connection for commands from now on; those on their way keep theirs.
struct Current {
    opening: Opening,
    began: Instant,
    /// Tells it from those before it.
    number: u64,
    /// It failed, is lost, or leads to a server that can't be written to.
    is_useless: bool,
    is_being_replaced: bool,
}

impl Current {
    fn new(number: u64, opening: BoxFuture<'static, RedisResult<MultiplexedConnection>>) -> Self {
        Self {
            opening: opening.shared(),
            began: Instant::now(),
            number,
            is_useless: false,
            is_being_replaced: false,
        }
    }
}

impl Connection {
    fn new(primary: Primary) -> Self {
        let primary = Arc::new(primary);
        let current = Current::new(0, primary.clone().open());
        Self(Arc::new((primary, Mutex::new(current))))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn opened(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let (number, opening) = {
            let mut current = self.current();
            let age = current.began.elapsed();
            if current.is_useless && age >= NOT_SOONER {
                *current = Current::new(current.number + 1, self.0.0.clone().open());
            } else if age >= LIFETIME && !current.is_being_replaced {
                current.is_being_replaced = true;
                tokio::spawn(self.clone().replace(current.number));
            }
            (current.number, current.opening.clone())
        };
        let opened = opening.await;
        if opened.is_err() {
            self.is_useless(number);
        }
        opened.map(|connection| (number, connection))
    }

    /// Opens another one and leaves this one to the commands on their way.
    async fn replace(self, number: u64) {
        let opened = self.0.0.clone().open().await;
        let mut current = self.current();
        if current.number != number {
            return;
        }
        match opened {
            Ok(opened) => *current = Current::new(number + 1, ready(Ok(opened)).boxed()),
            Err(_) => {
                current.is_being_replaced = false;
                current.began = Instant::now();
            }
        }
    }

    /// The next command has another connection.
    fn is_useless(&self, number: u64) {
        let mut current = self.current();
        current.is_useless |= current.number == number;
    }

    fn judge(&self, number: u64, error: Option<&RedisError>, answers: &[Value]) {
        let is_lost = |error: &RedisError| error.is_timeout() || error.is_unrecoverable_error();
        let is_of_another = |answer: &Value| match answer {
            Value::ServerError(error) => is_of_another_server(error),
            _ => false,
        };
        if error.is_some_and(is_lost) || answers.iter().any(is_of_another) {
            self.is_useless(number);
        }
    }
}

fn is_of_another_server(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default();
    OF_ANOTHER_SERVER
        .iter()
        .any(|code| error.code() == *code || details.contains(&format!("-{code} ")))
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (number, mut connection) = self.opened().await?;
            let answer = connection.send_packed_command(cmd).await;
            let answers = answer.as_ref().map_or(&[][..], std::slice::from_ref);
            self.judge(number, answer.as_ref().err(), answers);
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (number, mut connection) = self.opened().await?;
            let answers = connection.send_packed_commands(pipeline, offset, count).await;
            self.judge(number, answers.as_ref().err(), answers.as_deref().unwrap_or_default());
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.0.0.database
    }
}

/// The ways to find the primary, which are tried at the same time.
struct Primary {
    ways: Vec<Way>,
    pem: Pem,
    answer: Duration,
    database: i64,
}

enum Way {
    Server(Client),
    Sentinel { sentinel: Client, name: String, primary: Url },
}

impl Primary {
    fn new(servers: &RedisServers, pem: &Pem, answer: Duration) -> RedisResult<Self> {
        let server = |url: &Url| client(url, pem, answer).map(Way::Server);
        let ways = match servers {
            RedisServers::Listed(urls) => {
                urls.iter().map(server).collect::<RedisResult<Vec<_>>>()?
            }
            RedisServers::Sentinels { sentinels, name, primary } => {
                let way = |url| {
                    let (sentinel, name) = (client(url, pem, answer)?, name.clone());
                    Ok(Way::Sentinel { sentinel, name, primary: primary.clone() })
                };
                sentinels.iter().map(way).collect::<RedisResult<Vec<_>>>()?
            }
        };
        let database = match ways.first() {
            Some(Way::Server(server)) => server.get_connection_info().redis_settings().db(),
            _ => 0,
        };
        Ok(Self { ways, pem: pem.clone(), answer, database })
    }

    /// A connection to the first server that says that it is the primary. A single address is taken for
    /// the primary's: it may be a proxy's.
    fn open(self: Arc<Self>) -> BoxFuture<'static, RedisResult<MultiplexedConnection>> {
        Box::pin(async move {
            if let [Way::Server(only)] = self.ways.as_slice() {
                return self.connect(only).await;
            }
            let mut tries: FuturesUnordered<_> =
                self.ways.iter().map(|way| self.find_by(way)).collect();
            let mut reasons = Vec::new();
            while let Some(tried) = tries.next().await {
                match tried {
                    Ok(connection) => return Ok(connection),
                    Err(reason) => reasons.push(reason),
                }
            }
            Err((ErrorKind::Io, "no primary was found", reasons.join("; ")).into())
        })
    }

    async fn find_by(&self, way: &Way) -> Result<MultiplexedConnection, String> {
        let of = |client: &Client| client.get_connection_info().addr().to_string();
        match way {
            Way::Server(server) => {
                let connected = self.connect_to_primary(server).await;
                connected.map_err(|error| format!("{}: {}", of(server), of_redis(&error)))
            }
            Way::Sentinel { sentinel, name, primary } => {
                let named = self.ask(sentinel, name, primary).await;
                let server = named
                    .map_err(|error| format!("Sentinel {}: {}", of(sentinel), of_redis(&error)))?;
                self.connect_to_primary(&server).await.map_err(|error| {
                    format!("Sentinel {} names {}: {}", of(sentinel), of(&server), of_redis(&error))
                })
            }
        }
    }

    async fn ask(&self, sentinel: &Client, name: &str, primary: &Url) -> RedisResult<Client> {
        let mut sentinel = self.connect(sentinel).await?;
        let mut ask = cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(name);
        let Some((host, port)): Option<(String, u16)> = ask.query_async(&mut sentinel).await?
        else {
            let reason = "it watches nothing of this name";
            return Err((ErrorKind::Io, reason, name.to_owned()).into());
        };
        let mut url = primary.clone();
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let is_address = url.set_host(Some(&host)).is_ok() && url.set_port(Some(port)).is_ok();
        match is_address {
            true => client(&url, &self.pem, self.answer),
            false => Err((ErrorKind::Io, "it names no host", host).into()),
        }
    }

    async fn connect_to_primary(&self, server: &Client) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.connect(server).await?;
        let about: String = cmd("INFO").arg("replication").query_async(&mut connection).await?;
        match about.lines().any(|line| line.trim_end() == "role:master") {
            true => Ok(connection),
            false => Err((ErrorKind::Io, "it is a replica").into()),
        }
    }

    async fn connect(&self, server: &Client) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.answer));
        server.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn client(url: &Url, pem: &Pem, answer: Duration) -> RedisResult<Client> {
    let info = url.as_str().parse::<ConnectionInfo>()?;
    // Otherwise a connection that swallows commands would live as long as the kernel retransmits.
    let info = info.set_tcp_settings(TcpSettings::default().set_user_timeout(answer));
    if *pem == Pem::default() {
        return Client::open(info);
    }
    let client_tls = pem.identity.clone();
    let certificates = TlsCertificates {
        client_tls: client_tls
            .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
        root_cert: pem.ca.clone(),
    };
    Client::build_with_tls(info, certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_answers_are_of_a_server_that_is_not_to_be_written_to() {
        let is_of_another = |answer: &str| {
            let answer = format!("{answer}\r\n");
            let value = redis::parse_redis_value(answer.as_bytes()).expect("an answer");
            matches!(value, Value::ServerError(error) if is_of_another_server(&error))
        };
        for answer in [
            "-READONLY You can't write against a read only replica.",
            "-READONLY You can't write against a read only replica. script: 7f923f79fe76194c868d7e1d0820de36700eb649, on @user_script:1.",
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "-LOADING Redis is loading the dataset in memory",
            "-ERR Error running script (call to f_7f92): @user_script:1: -READONLY You can't write against a read only replica.",
        ] {
            assert!(is_of_another(answer), "{answer}");
        }
        for answer in
            ["-BUSYGROUP Consumer Group name already exists", "-NOSCRIPT No matching script."]
        {
            assert!(!is_of_another(answer), "{answer}");
        }
    }
}
