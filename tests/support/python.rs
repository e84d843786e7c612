//! The tests' Python: clients and readers that share no code with usher.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::exported;

/// Runs a script of `tests/support` and returns its output.
pub(crate) fn python(script: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(exported("TEST_PYTHON"))
        .arg(script_path(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("TEST_PYTHON");
    child.stdin.take().expect("it was piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{script} {arguments:?} failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where a script of `tests/support` lies.
pub(crate) fn script_path(script: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(script)
}
