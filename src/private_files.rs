//! Files with addresses and mail: only their owner may read them.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io::{ErrorKind, Result, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates a folder and those above it. One that exists keeps its mode.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file, new or not.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file?;
    // An existing file has kept its mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content.as_ref())
}

/// Takes a file from other readers, if it exists.
pub(crate) fn close(path: &Path) -> Result<()> {
    match std::fs::set_permissions(path, Permissions::from_mode(0o600)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        closed => closed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reads_what_is_new_or_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let inner = folder.path().join("a/b");
        create_folder(&inner).unwrap();
        assert_eq!(mode(&inner), 0o700);
        let file = inner.join("mail.eml");
        write(&file, "1").unwrap();
        assert_eq!(mode(&file), 0o600);
        for open in [|file: &Path| write(file, "2"), close] {
            std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
            open(&file).unwrap();
            assert_eq!(mode(&file), 0o600);
        }
        close(&inner.join("none")).unwrap();
    }
}
