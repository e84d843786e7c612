//! Private services that a test may kill and start again with their data. Started as
//! services.py does it, which also ends those that outlive their test.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{clocks::WrongClock, dice::Dice};
use crate::support::{eventually, exported, http::request, python::script_path};

/// How long a service may take to start on a loaded machine.
const START: Duration = Duration::from_secs(180);
/// Debian's own wrapper insists on the rabbitmq user; the script behind it does not.
const RABBITMQ_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Erlang cookie of RabbitMQ's node, which listens on the loopback only.
const COOKIE: &str = "ushertestscookie";

pub(crate) type Environment = Vec<(&'static str, String)>;

/// One service.
pub(crate) struct Daemon {
    name: &'static str,
    command: Vec<String>,
    environment: Environment,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
    folder: TempDir,
    child: Option<Child>,
    /// Its helper process, which survives when the service is killed.
    _companion: Option<Arc<Daemon>>,
    /// Without a path.
    pub(crate) url: String,
    /// Only for RabbitMQ.
    pub(crate) management: String,
    /// Port for commands to the node; only for RabbitMQ.
    distribution: u16,
}

impl Daemon {
    /// Redis with an append-only file, synced at each write.
    pub(crate) async fn redis() -> Self {
        Self::redis_in(Vec::new(), &[]).await
    }

    /// The same, with this clock.
    pub(crate) async fn redis_with(clock: &WrongClock) -> Self {
        Self::redis_in(clock.environment(), &[]).await
    }

    /// The same, with these options more.
    pub(crate) async fn redis_where(options: &[&str]) -> Self {
        Self::redis_in(Vec::new(), options).await
    }

    /// A Sentinel with these lines in its configuration.
    pub(crate) async fn sentinel(lines: &[String]) -> Self {
        let (port, folder) = (free_port(), folder());
        let file = folder.path().join("sentinel.conf");
        write(&file, &lines.join("\n"));
        let is_encrypted = lines.iter().any(|line| line.starts_with("tls-"));
        let mut command = of_services("redis-server");
        command.extend(words(&[&file.display().to_string(), "--sentinel"]));
        command.extend(redis_port(port, is_encrypted));
        let url = format!("redis://127.0.0.1:{port}");
        Self::started("sentinel", command, Vec::new(), folder, port, url).await
    }

    async fn redis_in(environment: Environment, more: &[&str]) -> Self {
        let port = free_port();
        let folder = folder();
        let options = ["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always"];
        let options = options.iter().chain(&["--maxmemory-policy", "noeviction", "--save", ""]);
        let options = options.chain(more);
        let is_encrypted = more.iter().any(|option| option.starts_with("--tls-"));
        let mut command = of_services("redis-server");
        command.extend(redis_port(port, is_encrypted));
        command.push("--dir".to_owned());
        command.push(folder.path().display().to_string());
        command.extend(options.map(|word| (*word).to_owned()));
        let url = format!("redis://127.0.0.1:{port}/0");
        Self::started("redis", command, environment, folder, port, url).await
    }

    /// The MongoDB stand-in.
    pub(crate) async fn mongodb() -> Self {
        let port = free_port();
        let folder = folder();
        // An empty file, or it reads others in /etc.
        let config = folder.path().join("secantusd.toml");
        File::create(&config).expect("a file");
        let (config, data) = (config.display().to_string(), folder.path().join("data"));
        let (python, port_text) = (exported("TEST_PYTHON"), port.to_string());
        let command = [
            &python,
            &script_path("mongodb.py").display().to_string(),
            "--config",
            &config,
            "--host",
            "127.0.0.1",
            "--port",
            &port_text,
            "--storage-path",
            &data.display().to_string(),
            "--cache-size",
            "64M",
            "--log-level",
            "WARNING",
            // The stand-in ignores `j`, with which usher asks for this.
            "--sync-on-commit",
            // Fail points.
            "--enable-test-commands",
        ];
        let url = format!("mongodb://127.0.0.1:{port}");
        Self::started("mongodb", words(&command), Vec::new(), folder, port, url).await
    }

    /// RabbitMQ with a private epmd, which stays when the broker is killed.
    pub(crate) async fn rabbitmq() -> Self {
        let [node] = Self::rabbitmq_cluster().await;
        node
    }

    /// Nodes of RabbitMQ that are one cluster.
    pub(crate) async fn rabbitmq_cluster<const N: usize>() -> [Self; N] {
        let epmd = free_port();
        let address = ["epmd", "-address", "127.0.0.1", "-port", &epmd.to_string()];
        let epmd_url = String::new();
        let companion =
            Self::started("epmd", words(&address), Vec::new(), folder(), epmd, epmd_url).await;
        let companion = Arc::new(companion);
        let ports = [(); N].map(|()| free_port());
        let mut nodes = ports.map(|port| Self::rabbitmq_node(port, &ports, epmd, &companion));
        // A cluster is formed by nodes that start together.
        futures_util::future::join_all(nodes.iter_mut().map(Self::start)).await;
        nodes
    }

    fn rabbitmq_node(port: u16, cluster: &[u16], epmd: u16, companion: &Arc<Self>) -> Self {
        let [management, dist] = [(); 2].map(|()| free_port());
        let folder = folder();
        let home = folder.path();
        let at = |name: &str| home.join(name).display().to_string();
        let node = |port: u16| format!("usher-chaos-{port}@localhost");
        secret(&home.join(".erlang.cookie"), COOKIE);
        write(&home.join("enabled_plugins"), "[rabbitmq_management].\n");
        let mut conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\ndisk_free_limit.absolute = 100MB\n\
             log.file = false\nlog.console = true\nlog.console.level = warning\n"
        );
        // A node of a cluster has the settings of the example, with the names of these nodes.
        let mut peers = cluster.iter();
        let example = include_str!("../../deploy/rabbitmq/cluster.conf");
        for line in example.lines().filter(|line| !line.starts_with('#') && cluster.len() > 1) {
            let named = line.split_once("rabbit@").and_then(|(key, _)| {
                let peer = peers.next()?;
                Some(format!("{key}{}", node(*peer)))
            });
            conf.push_str(named.as_deref().unwrap_or(line));
            conf.push('\n');
        }
        write(&home.join("rabbitmq.conf"), &conf);
        let environment = vec![
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("RABBITMQ_NODENAME", node(port)),
            ("RABBITMQ_DIST_PORT", dist.to_string()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", at("none")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_PID_FILE", at("pid")),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
                    .to_owned(),
            ),
            // The script becomes the broker, so that killing it kills the broker.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ];
        let management = format!("http://guest:guest@127.0.0.1:{management}");
        let overview = format!("{management}/api/vhosts");
        Self {
            name: "rabbitmq",
            command: of_services(RABBITMQ_SERVER),
            environment,
            ready: Box::new(move || {
                listens(port)
                    && request("GET", &overview, None).is_ok_and(|answer| answer.status == 200)
            }),
            folder,
            child: None,
            _companion: Some(companion.clone()),
            url: format!("amqp://guest:guest@127.0.0.1:{port}"),
            management,
            distribution: dist,
        }
    }

    async fn started(
        name: &'static str,
        command: Vec<String>,
        environment: Environment,
        folder: TempDir,
        port: u16,
        url: String,
    ) -> Self {
        let ready = Box::new(move || listens(port));
        let management = String::new();
        let mut daemon = Self {
            name,
            command,
            environment,
            ready,
            folder,
            child: None,
            _companion: None,
            url,
            management,
            distribution: 0,
        };
        daemon.start().await;
        daemon
    }

    /// Host and port of a service whose URL has no path or one.
    pub(crate) fn address(&self) -> &str {
        let place = self.url.rsplit("//").next().unwrap_or_default();
        place.split('/').next().unwrap_or_default()
    }

    /// Its working directory.
    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it with its earlier data and waits until it answers.
    pub(crate) async fn start(&mut self) {
        let log = self.folder.path().join("log.txt");
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir(self.folder.path()).env_clear();
        command.env("LANG", "C.UTF-8").env("HOME", self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stderr(file.try_clone().expect("a file")).stdout(file);
        self.child = Some(command.spawn().expect("the service starts"));
        let deadline = Instant::now() + START;
        while !(self.ready)() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            let ended =
                self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|e| e.is_some()));
            assert!(!ended && Instant::now() < deadline, "no {}:\n{}", self.name, said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The name of RabbitMQ's node.
    pub(crate) fn node_name(&self) -> &str {
        let named = self.environment.iter().find(|(name, _)| *name == "RABBITMQ_NODENAME");
        &named.expect("RabbitMQ").1
    }

    /// Makes RabbitMQ's node evaluate an Erlang expression, as `rabbitmqctl eval` does for a node
    /// with a resolvable name.
    pub(crate) fn evaluate(&self, expression: &str) {
        let address = format!("127.0.0.1:{}", self.distribution);
        let mut call = Command::new("erl_call")
            .args(["-address", &address, "-c", COOKIE, "-r", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("erl_call of Debian's erlang-base");
        let mut input = call.stdin.take().expect("its standard input");
        std::io::Write::write_all(&mut input, expression.as_bytes()).expect("written");
        drop(input);
        let output = call.wait_with_output().expect("an answer");
        assert!(output.status.success(), "{expression}: {output:?}");
    }

    /// Keeps its data as they are now.
    pub(crate) fn backup(&self) -> TempDir {
        let kept = folder();
        copy(self.folder.path(), kept.path());
        kept
    }

    /// Kills it, and starts it with the data of a backup.
    pub(crate) async fn restore(&mut self, backup: &TempDir) {
        self.kill();
        let data = self.folder.path().join("appendonlydir");
        std::fs::remove_dir_all(&data).expect("its data");
        copy(backup.path(), self.folder.path());
        self.start().await;
    }

    /// Sends a signal, such as STOP or TERM.
    pub(crate) fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Lets it end by itself.
    pub(crate) async fn terminate(&mut self) {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        let ended = async || child.try_wait().expect("its state").map(drop);
        eventually("the service ends", ended).await;
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status();
    assert!(copied.expect("cp").success());
}

/// Options by which Redis listens here, with TLS or without it.
fn redis_port(port: u16, is_encrypted: bool) -> Vec<String> {
    let port = &*port.to_string();
    match is_encrypted {
        true => words(&["--port", "0", "--tls-port", port]),
        false => words(&["--port", port]),
    }
}

/// A server, of the Debian 13 that `tests/run --trixie` names as services.py has it.
fn of_services(server: &str) -> Vec<String> {
    let Ok(root) = std::env::var("TEST_SERVICES_ROOT") else { return words(&[server]) };
    let server = if server == "redis-server" { "valkey-server" } else { server };
    words(&[&script_path("in_root").display().to_string(), &root, server])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &PathBuf, text: &str) {
    std::fs::write(path, text).expect("a file in a folder of ours");
}

/// Erlang refuses a cookie that others may read.
fn secret(path: &Path, text: &str) {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(true).mode(0o400).open(path);
    std::io::Write::write_all(&mut file.expect("a file in a folder of ours"), text.as_bytes())
        .expect("written");
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// One below the kernel's ephemeral range, so that no outgoing connection takes it first.
fn free_port() -> u16 {
    // Always different, whatever CHAOS_SEED is.
    let mut dice = Dice::new(uuid::Uuid::new_v4().as_u64_pair().0);
    loop {
        let port = 20_000 + dice.below(12_768) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
