//! The embedded mode: broker, ledger, audit and scheduler in one SQLite file that one process
//! holds. Write-ahead logging makes every committed step survive kill -9.

pub mod audit;
pub mod broker;
pub mod ledger;
pub mod scheduler;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use crate::private_files;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        priority INTEGER NOT NULL,
        due_ms INTEGER NOT NULL,
        taken INTEGER NOT NULL DEFAULT 0,
        properties TEXT NOT NULL,
        hand_off TEXT,
        reason TEXT,
        body BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS messages_due ON messages (queue, priority, due_ms);
    CREATE TABLE IF NOT EXISTS ledger (
        delivery_id TEXT PRIMARY KEY,
        entry TEXT NOT NULL,
        expires_ms INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS rates (
        recipient TEXT PRIMARY KEY,
        full_until_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS waiting (
        delivery_id TEXT PRIMARY KEY,
        expires_ms INTEGER NOT NULL,
        keys TEXT NOT NULL,
        mark TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS deliveries (
        id TEXT PRIMARY KEY,
        delivery_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        purge_ms INTEGER NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS deliveries_by_delivery ON deliveries (delivery_id, at_ms);
    CREATE TABLE IF NOT EXISTS planned (
        delivery_id TEXT PRIMARY KEY,
        booking_id TEXT,
        state TEXT NOT NULL,
        due_ms INTEGER NOT NULL,
        claim_at_ms INTEGER NOT NULL,
        purge_ms INTEGER,
        planned TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS planned_due ON planned (state, claim_at_ms);
    CREATE INDEX IF NOT EXISTS planned_by_booking ON planned (booking_id);
    CREATE TABLE IF NOT EXISTS bookings (
        booking_id TEXT PRIMARY KEY,
        purge_ms INTEGER NOT NULL,
        booking TEXT NOT NULL
    ) WITHOUT ROWID;
";

/// SQLite gives new files the mode of the first. Others may have been left by an older version.
fn close_to_others(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        private_files::write(path, "")?;
    }
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        private_files::close(Path::new(&name))?;
    }
    Ok(())
}

/// A handle to the file; cheap to clone.
#[derive(Clone)]
pub struct Database {
    connection: Arc<Mutex<Connection>>,
}

impl Database {
    /// Opens or creates the file and locks it against other processes.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        close_to_others(path)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Self::set_up(Connection::open(path)?)
    }

    /// A database without a file, for tests.
    pub fn in_memory() -> rusqlite::Result<Self> {
        Self::set_up(Connection::open_in_memory()?)
    }

    fn set_up(connection: Connection) -> rusqlite::Result<Self> {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // With WAL, NORMAL loses nothing when the process dies. Only a power cut could lose the
        // last commits.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(SCHEMA)?;
        let now = jiff::Timestamp::now().as_millisecond();
        connection.execute("DELETE FROM ledger WHERE expires_ms < ?1", [now])?;
        for table in ["deliveries", "planned", "bookings"] {
            connection.execute(&format!("DELETE FROM {table} WHERE purge_ms < ?1"), [now])?;
        }
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs a closure on the database, outside the async threads.
    pub async fn call<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    {
        let connection = self.connection.clone();
        tokio::task::spawn_blocking(move || {
            // SQLite rolls back what a panic left open, so the connection stays usable.
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn only_the_owner_reads_the_database_even_if_others_could_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usher.db");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let database = Database::open(&path).unwrap();
        database.call(|db| Ok(db.execute("DELETE FROM ledger", [])?)).await.unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
        }
    }
}
