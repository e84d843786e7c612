//! A real postfix of a test's own: takes mail on loopback, relays it to servers of the test, and pipes what
//! comes to the return path into `usher receipts ingest`. Needs root, as postfix does.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::support::eventually;

/// Domain of the return path.
pub(crate) const BOUNCES: &str = "bounces.test";

pub(crate) struct Postfix {
    folder: TempDir,
    master: Child,
    pub(crate) port: u16,
}

impl Postfix {
    /// `routes` are domains with the ports of their servers; `settings` are usher's, for the pipe.
    pub(crate) async fn start(routes: &[(&str, u16)], settings: &BTreeMap<String, String>) -> Self {
        Self::start_with(routes, settings, "usher:").await
    }

    /// Reports are stored below this folder of mailboxes, in the one of `bounces`.
    pub(crate) async fn start_with_mailbox(routes: &[(&str, u16)], mailboxes: &Path) -> Self {
        let id = |option: &str| {
            let output = Command::new("id").args([option, "mail"]).output().expect("id");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let more = format!(
            "virtual:\nvirtual_mailbox_domains = {BOUNCES}\n\
             virtual_mailbox_base = {}\n\
             virtual_mailbox_maps = inline:{{ {{bounces@{BOUNCES}=bounces/}} }}\n\
             virtual_minimum_uid = 1\n\
             virtual_uid_maps = static:{}\n\
             virtual_gid_maps = static:{}",
            mailboxes.display(),
            id("-u"),
            id("-g"),
        );
        Self::start_with(routes, &BTreeMap::new(), &more).await
    }

    /// `reports` is the transport of reports, with further settings after a line end.
    async fn start_with(
        routes: &[(&str, u16)],
        settings: &BTreeMap<String, String>,
        reports: &str,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        // Postfix runs the pipe as somebody else.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::copy(env!("CARGO_BIN_EXE_usher"), path.join("usher")).expect("a copy of usher");
        let exports: String = settings
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
            .collect();
        let script = format!(
            "#!/bin/sh\ncd /\n{exports}cat >\"{0}/reports/$$.eml\"\n\
             \"{0}/usher\" receipts ingest --recipient \"$1\" <\"{0}/reports/$$.eml\" >>\"{0}/ingested\" 2>&1\n",
            path.display()
        );
        let ingest = path.join("ingest");
        fs::write(&ingest, script).expect("a script");
        fs::set_permissions(&ingest, fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::write(path.join("ingested"), "").expect("a file");
        fs::create_dir(path.join("reports")).expect("a folder");
        for open in ["ingested", "reports"] {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(path.join(open), mode).expect("permissions");
        }
        let port = free_port();
        configure(path, routes, port, reports);
        let checked = Command::new("postfix").arg("-c").arg(path.join("etc")).arg("check").output();
        let checked = checked.expect("postfix is installed");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let master = Command::new("/usr/lib/postfix/sbin/master")
            .arg("-c")
            .arg(path.join("etc"))
            .arg("-d")
            .stdin(Stdio::null())
            .spawn()
            .expect("postfix starts");
        let postfix = Self { folder, master, port };
        eventually("postfix listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        postfix
    }

    /// The reports as postfix wrote them.
    pub(crate) fn reports(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(self.folder.path().join("reports")).expect("a folder");
        found.map(|file| file.expect("a file").path()).collect()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The master ends its children at SIGTERM.
        let pid = self.master.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.master.wait();
    }
}

fn configure(path: &Path, routes: &[(&str, u16)], port: u16, reports: &str) {
    let (transport, more) = reports.split_once('\n').unwrap_or((reports, ""));
    let etc = path.join("etc");
    fs::create_dir(&etc).expect("a folder");
    let transports: String = routes
        .iter()
        .map(|(domain, port)| format!("{{{domain}=smtp:[127.0.0.1]:{port}}}, "))
        .collect();
    for folder in ["queue", "data"] {
        fs::create_dir(path.join(folder)).expect("a folder");
    }
    let owned = Command::new("chown").arg("postfix").arg(path.join("data")).status();
    assert!(owned.is_ok_and(|status| status.success()), "postfix's user is there, and we are root");
    let main = format!(
        "compatibility_level = 3.6\n\
         queue_directory = {0}/queue\n\
         data_directory = {0}/data\n\
         myhostname = relay.test\n\
         mydestination =\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         mynetworks = 127.0.0.0/8\n\
         alias_maps =\n\
         alias_database =\n\
         maillog_file = /dev/null\n\
         maillog_file_prefixes = /dev\n\
         recipient_delimiter = +\n\
         transport_maps = inline:{{ {transports}{{{BOUNCES}={transport}}} }}\n{more}\n\
         smtp_tls_security_level = none\n\
         usher_destination_recipient_limit = 1\n\
         queue_run_delay = 1s\n\
         transport_retry_time = 1s\n\
         minimal_backoff_time = 1s\n\
         maximal_backoff_time = 1s\n\
         maximal_queue_lifetime = 3s\n\
         bounce_queue_lifetime = 1h\n",
        path.display()
    );
    fs::write(etc.join("main.cf"), main).expect("a file");
    let services = format!(
        "127.0.0.1:{port} inet n - n - - smtpd\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         proxymap unix - - n - - proxymap\n\
         anvil unix - - n - 1 anvil\n\
         smtp unix - - n - - smtp\n\
         virtual unix - n n - - virtual\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         usher unix - n n - - pipe flags=R user=nobody argv={}/ingest ${{original_recipient}}\n\
         postlog unix-dgram n - n - 1 postlogd\n",
        path.display()
    );
    fs::write(etc.join("master.cf"), services).expect("a file");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
