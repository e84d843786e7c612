//! A real dovecot of a test's own, which needs root. Every name may log in with [`PASSWORD`].

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{eventually, world::certificate};

/// As it is written in a URL.
pub(crate) const PASSWORD: &str = "se%3Acret";

pub(crate) struct Dovecot {
    folder: TempDir,
    child: Child,
    pub(crate) port: u16,
}

impl Dovecot {
    /// With all folders below this prefix, such as `INBOX.`.
    pub(crate) async fn start(prefix: &str) -> Self {
        Self::start_with(prefix, "").await
    }

    /// Takes access tokens that this endpoint knows, and no password.
    pub(crate) async fn start_with_tokens(token_info: &str) -> Self {
        let asks =
            format!("tokeninfo_url = {token_info}?access_token=\nusername_attribute = email\n");
        Self::start_with("", &asks).await
    }

    /// `tokens`: how dovecot asks about access tokens; empty: it takes the password.
    async fn start_with(prefix: &str, tokens: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::create_dir(folder.path().join("mail")).expect("a folder");
        let owned = Command::new("chown").arg("mail").arg(folder.path().join("mail")).status();
        assert!(
            owned.is_ok_and(|status| status.success()),
            "the user mail is there, and we are root"
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let (server, key) = (certificate("server.pem"), certificate("server.key"));
        fs::write(folder.path().join("tokens"), tokens).expect("a file");
        let passdb = match tokens {
            "" => "passdb {\n driver = static\n args = password=se:cret\n}\n".to_owned(),
            _ => format!(
                "auth_mechanisms = xoauth2\npassdb {{\n driver = oauth2\n mechanisms = xoauth2\n args = {path}/tokens\n}}\n"
            ),
        };
        let configuration = format!(
            "base_dir = {path}/run\nstate_dir = {path}/state\nlog_path = {path}/log\n\
             protocols = imap\nlisten = 127.0.0.1\nssl = required\nssl_cert = <{server}\nssl_key = <{key}\n\
             mail_location = maildir:{path}/mail/%u\nmail_uid = mail\nmail_gid = mail\nfirst_valid_uid = 1\n\
             {passdb}\
             userdb {{\n driver = static\n args = uid=mail gid=mail allow_all_users=yes home={path}/mail/%u\n}}\n\
             namespace inbox {{\n inbox = yes\n separator = .\n prefix = {prefix}\n}}\n\
             service imap-login {{\n inet_listener imap {{\n port = 0\n }}\n inet_listener imaps {{\n port = {port}\n ssl = yes\n }}\n}}\n"
        );
        fs::write(folder.path().join("dovecot.conf"), configuration).expect("a file");
        let child = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c", &format!("{path}/dovecot.conf")])
            .stdin(Stdio::null())
            .spawn()
            .expect("dovecot is installed");
        let dovecot = Self { folder, child, port };
        eventually("dovecot listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        dovecot
    }

    pub(crate) fn doveadm(&self, arguments: &[&str], input: &str) -> String {
        let mut doveadm = Command::new("doveadm")
            .arg("-c")
            .arg(self.folder.path().join("dovecot.conf"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("doveadm");
        doveadm.stdin.take().expect("it was piped").write_all(input.as_bytes()).expect("written");
        let output = doveadm.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// For usher, with this password.
    pub(crate) fn url(&self, password: &str, mailbox: &str) -> String {
        format!("imaps://bounces:{password}@localhost:{}/{mailbox}", self.port)
    }

    /// The folder with a mailbox for each name.
    pub(crate) fn mailboxes(&self) -> PathBuf {
        self.folder.path().join("mail")
    }

    /// Puts a message into the mailbox.
    pub(crate) fn save(&self, message: &str) {
        self.save_in("INBOX", message);
    }

    /// Puts a message into a folder.
    pub(crate) fn save_in(&self, folder: &str, message: &str) {
        self.doveadm(&["save", "-u", "bounces", "-m", folder], message);
    }

    /// Messages in a folder.
    pub(crate) fn count(&self, folder: &str) -> usize {
        self.doveadm(&["search", "-u", "bounces", "mailbox", folder, "all"], "").lines().count()
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // It ends its children at SIGTERM.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
