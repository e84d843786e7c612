"""Runs a command with private services up: services.py -- COMMAND…

Everything listens on a free port of the loopback and lives in a temporary folder. The command
finds it by TEST_* variables (see `start`); its exit code is passed on.
"""

import base64
import ctypes
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pymongo

HERE = Path(__file__).resolve().parent
# Debian's wrapper requires the rabbitmq user; this script does not.
RABBITMQ_SERVER = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
REDIS_SERVER = ["redis-server"]
# With `tests/run --trixie`: the folder of a Debian 13, which has newer ones.
if root := os.environ.get("TEST_SERVICES_ROOT"):
    RABBITMQ_SERVER = [str(HERE / "in_root"), root, *RABBITMQ_SERVER]
    REDIS_SERVER = [str(HERE / "in_root"), root, "valkey-server"]
START_TIMEOUT = 180.0
WATCH_EVERY = 5.0
# A shared service without an answer for this long has hung. Much shorter than the timeouts of the tests.
HUNG = 45.0
STOP_GRACE = 15.0

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    pass


def say(text: str) -> None:
    print(f"services: {text}", file=sys.stderr, flush=True)


def die_with_parent() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Service:
    """A child process. It is ended by `end_children`, or by the kernel if this process dies.

    To be started from the main thread only: PR_SET_PDEATHSIG is about the thread that forked.
    """

    def __init__(self, name: str, directory: Path, command: list[str], env: dict[str, str] | None = None):
        self.name = name
        self.log = directory / f"{name}.log"
        self.command = command
        # Hides the user's own settings (RABBITMQ_*, ERL_*, dot files).
        clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(directory)}
        self.env = clean | (env or {})
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.log.parent,
                # Ctrl-C is for the command; the services stay up until it has ended.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def check(self) -> None:
        if (code := self.process.poll()) is not None:
            raise Failed(f"{self.name} has ended with {code}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, ready) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} is not ready after {START_TIMEOUT:.0f} s:\n{self.log_tail()}")
            time.sleep(0.05)


def free_ports():
    """Ports below the kernel's ephemeral range, so that no outgoing connection takes one first."""
    for port in random.sample(range(20000, 32768), 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def start_rabbitmq(
    directory: Path, certificates: Path, port: int, tls_port: int, management: int, dist: int, epmd_port: int
) -> Service:
    directory.mkdir()
    # A private epmd: the machine's would outlive the tests and know other brokers.
    epmd = Service("epmd", directory, ["epmd", "-address", "127.0.0.1", "-port", str(epmd_port)])
    epmd.wait_until(lambda: listens(epmd_port))
    cookie = directory / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    (directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
    (directory / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\n"
        f"listeners.ssl.1 = 127.0.0.1:{tls_port}\n"
        f"ssl_options.cacertfile = {certificates}/ca.pem\n"
        f"ssl_options.certfile = {certificates}/server.pem\n"
        f"ssl_options.keyfile = {certificates}/server.key\n"
        "ssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true\n"
        "management.tcp.ip = 127.0.0.1\n"
        f"management.tcp.port = {management}\n"
        "disk_free_limit.absolute = 100MB\n"
        "log.file = false\n"
        "log.console = true\n"
        "log.console.level = warning\n"
    )
    env = {
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": f"usher-test-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        # Second line: idle schedulers sleep instead of spinning on cores that the tests need.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"
        " +sbwt none +sbwtdcpu none +sbwtdio none",
        # The script becomes the broker instead of its parent.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    return Service("rabbitmq", directory, RABBITMQ_SERVER, env)


def management(port: int, path: str) -> tuple[int, str]:
    """Status and body of a management API answer; status 0 if there is none."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/{path}",
        headers={"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()},
    )
    # Ignores proxies of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=HUNG) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def watch_rabbitmq(port: int) -> None:
    """Reports alarms: during one (memory, disk) the broker confirms nothing."""
    status, alarms = management(port, "health/checks/alarms")
    if status != 200:
        say(f"rabbitmq takes no messages: {alarms}")


def start_redis(directory: Path, certificates: Path, port: int, tls_port: int) -> Service:
    directory.mkdir()
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--tls-port": str(tls_port),
        "--tls-ca-cert-file": str(certificates / "ca.pem"),
        "--tls-cert-file": str(certificates / "server.pem"),
        "--tls-key-file": str(certificates / "server.key"),
        "--dir": str(directory),
        # As in production: the ledger must survive a restart and must not be evicted.
        "--appendonly": "yes",
        "--maxmemory-policy": "noeviction",
        "--save": "",
    }
    return Service("redis", directory, [*REDIS_SERVER, *(part for option in options.items() for part in option)])


def start_mongodb(directory: Path, port: int) -> Service:
    directory.mkdir()
    # An empty file, or it reads others in /etc.
    config = directory / "secantusd.toml"
    config.touch()
    options = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    options += ["--storage-path", str(directory / "data"), "--cache-size", "256M", "--log-level", "WARNING"]
    return Service("mongodb", directory, [sys.executable, str(HERE / "mongodb.py"), *options])


def mongodb_works(uri: str) -> bool:
    """Whether it stores and finds within `HUNG`: it can deadlock in its storage and still answer hello."""
    with pymongo.MongoClient(uri, timeoutMS=int(HUNG * 1000)) as client:
        try:
            database = client["usher-tests-watch"]
            database.looks.replace_one({"_id": 1}, {"at": time.time()}, upsert=True)
            return database.looks.find_one() is not None and database.list_collection_names() != []
        except pymongo.errors.PyMongoError as error:
            say(f"mongodb: {error}")
            return False


def watch_mongodb(service: Service, uri: str) -> None:
    """Restarts a stand-in that hangs and reports where it hung. usher has to survive that anyway."""
    if mongodb_works(uri):
        return
    service.process.send_signal(signal.SIGUSR1)
    time.sleep(1)
    say(f"mongodb hangs, and is started again; it was here:\n{service.log_tail(400)}")
    service.process.kill()
    service.process.wait()
    service.start()
    service.wait_until(lambda: mongodb_works(uri))


def make_certificates(directory: Path) -> None:
    """Creates a trusted certificate, and others that must be refused.

    ca.pem; by it: server.pem for localhost, expired.pem, elsewhere.pem for another host, and client.pem (with its key in
    client-and-key.pem too). unknown.pem and stranger.pem are the same for a server and a client, by other-ca.pem. The key
    of each is beside it.
    """
    directory.mkdir()
    (directory / "openssl.cnf").write_text(
        "[req]\n"
        "distinguished_name = name\n"
        "[name]\n"
        "[authority]\n"
        "basicConstraints = critical,CA:TRUE\n"
        "keyUsage = critical,keyCertSign\n"
        "[server]\n"
        "basicConstraints = critical,CA:FALSE\n"
        "keyUsage = critical,digitalSignature\n"
        "extendedKeyUsage = serverAuth\n"
        "subjectAltName = DNS:localhost,IP:127.0.0.1\n"
        "[elsewhere]\n"
        "basicConstraints = critical,CA:FALSE\n"
        "extendedKeyUsage = serverAuth\n"
        "subjectAltName = DNS:elsewhere.test\n"
        "[client]\n"
        "basicConstraints = critical,CA:FALSE\n"
        "keyUsage = critical,digitalSignature\n"
        "extendedKeyUsage = clientAuth\n"
        # `openssl req` can't create an expired certificate; `openssl ca` can, and needs a database.
        "[past]\n"
        "database = past.txt\n"
        "serial = past.serial\n"
        "new_certs_dir = .\n"
        "default_md = sha256\n"
        "policy = any\n"
        "[any]\n"
        "commonName = supplied\n"
    )
    (directory / "past.txt").touch()

    def openssl(command: str) -> None:
        done = subprocess.run(["openssl", *command.split()], cwd=directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"openssl {command} has failed:\n{done.stderr}")

    request = "req -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for authority in ("ca", "other-ca"):
        openssl(f"{request} -x509 -days 2 -extensions authority -subj /CN={authority} -keyout {authority}.key -out {authority}.pem")
    for name, kind, authority in (
        ("server", "server", "ca"),
        ("elsewhere", "elsewhere", "ca"),
        ("client", "client", "ca"),
        ("unknown", "server", "other-ca"),
        ("stranger", "client", "other-ca"),
    ):
        signed = f"-CA {authority}.pem -CAkey {authority}.key"
        openssl(f"{request} -x509 -days 2 -extensions {kind} -subj /CN={name} -keyout {name}.key -out {name}.pem {signed}")
    openssl(f"{request} -subj /CN=expired -keyout expired.key -out expired.csr")
    openssl(
        "ca -batch -notext -config openssl.cnf -name past -create_serial -extensions server -cert ca.pem -keyfile ca.key"
        " -startdate 20200101000000Z -enddate 20200102000000Z -in expired.csr -out expired.pem"
    )
    both = [(directory / name).read_text() for name in ("client.pem", "client.key")]
    (directory / "client-and-key.pem").write_text("".join(both))


def start(directory: Path) -> tuple[list[Service], dict[str, str], list]:
    """Starts all services at once and waits for each. Returns them, the command's environment, and their watchers."""
    ports = free_ports()
    amqp, management_port, redis, mongodb, starttls, implicit, plain = (next(ports) for _ in range(7))
    amqps, rediss, mongodb_tls, starttls_client, implicit_client = (next(ports) for _ in range(5))
    certificates = directory / "certificates"
    make_certificates(certificates)
    services = [
        start_rabbitmq(directory / "rabbitmq", certificates, amqp, amqps, management_port, next(ports), next(ports)),
        start_redis(directory / "redis", certificates, redis, rediss),
    ]
    mongodb_uri = os.environ.get("TEST_MONGODB_URI")
    watches = [lambda: watch_rabbitmq(management_port)]
    if not mongodb_uri:
        mongodb_uri = f"mongodb://127.0.0.1:{mongodb}"
        stand_in = start_mongodb(directory / "mongodb", mongodb)
        services.append(stand_in)
        watches.append(lambda: watch_mongodb(stand_in, mongodb_uri))
    # With a real MongoDB, TLS in front of the stand-in leads nowhere.
    front = [sys.executable, str(HERE / "tls_front.py"), str(certificates), str(mongodb_tls), str(mongodb)]
    services.append(Service("mongodb-tls", certificates, front))
    smtp, mails = directory / "smtp", directory / "mails"
    smtp.mkdir()
    mails.mkdir()
    env = {
        "TEST_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{amqp}",
        "TEST_AMQP_MANAGEMENT": f"http://guest:guest@127.0.0.1:{management_port}",
        "TEST_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
        "TEST_MONGODB_URI": mongodb_uri,
        # The same services, for clients with a certificate.
        "TEST_CERTIFICATES": str(certificates),
        "TEST_AMQPS_URL": f"amqps://guest:guest@localhost:{amqps}",
        "TEST_REDISS_URL": f"rediss://localhost:{rediss}/0",
        # directConnection, or the driver would use the address that the server reports.
        "TEST_MONGODB_TLS_URI": f"mongodb://localhost:{mongodb_tls}/?tls=true&directConnection=true",
        "TEST_SMTP_CLIENT_PORT": str(starttls_client),
        "TEST_SMTP_IMPLICIT_CLIENT_PORT": str(implicit_client),
        "TEST_SMTP_SERVER": "localhost",
        "TEST_SMTP_PORT": str(starttls),
        "TEST_SMTP_IMPLICIT_PORT": str(implicit),
        "TEST_SMTP_PLAIN_PORT": str(plain),
        "TEST_SMTP_USERNAME": "usher@example.test",
        "TEST_SMTP_PASSWORD": secrets.token_urlsafe(16),
        "TEST_SMTP_CA": str(certificates / "ca.pem"),
        "TEST_SMTP_MAILDIR": str(mails),
        "TEST_PYTHON": sys.executable,
        "TEST_NODE": str(Path(sys.executable).with_name("node")),
        "TEST_NODE_MODULES": str(Path(sys.prefix) / "node" / "node_modules"),
        "TEST_HANDLEBARS": str(Path(sys.prefix) / "handlebars" / "node_modules"),
    }
    services.append(Service("smtp", smtp, [sys.executable, str(HERE / "smtp_real.py"), str(certificates)], env))

    ready = {
        "rabbitmq": lambda: listens(amqp) and management(management_port, "vhosts")[0] == 200,
        "redis": lambda: listens(redis),
        "mongodb": lambda: listens(mongodb),
        "mongodb-tls": lambda: listens(mongodb_tls),
        "smtp": lambda: listens(plain),  # bound last
    }
    for service in services:
        service.wait_until(ready[service.name])
    return services, env, watches


def run(command: list[str], env: dict[str, str], watches: list) -> int:
    try:
        child = subprocess.Popen(command, env=os.environ | env, preexec_fn=die_with_parent)
    except OSError as error:
        raise Failed(f"cannot run {command[0]}: {error.strerror}") from error

    def pass_on(number: int, _frame) -> None:
        # Ctrl-C on the terminal has reached the command already; many programs take a second one as "at once".
        if not (number == signal.SIGINT and sys.stdin.isatty()):
            child.send_signal(number)
        signal.alarm(int(STOP_GRACE))

    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    while (code := child.poll()) is None:
        try:
            child.wait(WATCH_EVERY)
        except subprocess.TimeoutExpired:
            for watch in watches:
                watch()
    signal.alarm(0)
    return code if code >= 0 else 128 - code


def end_children() -> None:
    """Kills all descendants of this process: none has data worth a grace period.

    Orphans become children of this process (it is their subreaper), so it ends when there are none.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # An exception, as for Ctrl-C, so that the `finally` below runs.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="usher-tests-") as directory:
        try:
            services, env, watches = start(Path(directory))
            say(f"up in {time.monotonic() - began:.1f} s")
            code = run(sys.argv[2:], env, watches)
            for service in services:
                service.check()
            return code
        except Failed as error:
            say(str(error))
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            # A second signal must not interrupt this.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            end_children()


if __name__ == "__main__":
    sys.exit(main())
