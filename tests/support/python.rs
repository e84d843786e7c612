//! The tests' Python: clients and readers that share no code with usher.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use super::exported;

/// Runs a script of `tests/support` and gives what it printed.
pub(crate) fn python(script: &str, arguments: &[&str], input: &[u8]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(script);
    let mut child = Command::new(exported("TEST_PYTHON"))
        .arg(path)
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
