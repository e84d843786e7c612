//! Writes mail to a folder, one `.eml` file each (`EMAIL_BACKEND=file`, and the embedded mode).

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Attempted, Channel, Outcome, Outgoing, Slot, SlotRequest, email::Sender};
use crate::{
    health::{Dependency, State},
    private_files,
};

pub struct FileChannel {
    sender: Sender,
    folder: PathBuf,
    health: Dependency,
}

impl FileChannel {
    /// `health` is told when the folder can't be written to. Creates the folder if it is missing. Mail in it becomes readable for this user alone; a folder that
    /// exists keeps its own mode.
    ///
    /// # Errors
    /// The folder can't be created, or a mail in it is another user's.
    pub fn new(sender: Sender, folder: PathBuf, health: Dependency) -> std::io::Result<Self> {
        private_files::create_folder(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml" || extension == "part") {
                private_files::close(&path)?;
            }
        }
        Ok(Self { sender, folder, health })
    }
}

#[async_trait]
impl Channel for FileChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        super::email::check_recipient(address)
    }

    async fn ready(&self, _request: SlotRequest<'_>) -> Box<dyn Slot> {
        Box::new(FileSlot {
            sender: self.sender.clone(),
            folder: self.folder.clone(),
            health: self.health.clone(),
        })
    }
}

struct FileSlot {
    sender: Sender,
    folder: PathBuf,
    health: Dependency,
}

#[async_trait]
impl Slot for FileSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Attempted {
        let mail = match self.sender.compose_aside(message).await {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason).into(),
        };
        let seal = mail.seal();
        Attempted { outcome: self.store(message, mail.text, latch).await, mail: Some(seal) }
    }
}

impl FileSlot {
    async fn store(&self, message: &Outgoing, text: String, latch: BoxFuture<'_, bool>) -> Outcome {
        // The Message-ID names the file, so a second copy replaces the first. The rename is atomic.
        let name = message.message_id.trim_matches(['<', '>']).split('@').next().unwrap_or("mail");
        let part = self.folder.join(format!(".{name}.part"));
        let whole = self.folder.join(format!("{name}.eml"));
        let path = part.clone();
        let written = tokio::task::spawn_blocking(move || private_files::write(&path, &text));
        if let Err(error) = written.await.unwrap_or_else(|error| Err(error.into())) {
            // A full disk is no fault of this mail. What was written of it takes room.
            let _ = std::fs::remove_file(&part);
            let reason = format!("{}: {error}", part.display());
            self.health.down(&reason);
            return Outcome::Unavailable(reason, None);
        }
        if matches!(self.health.state(), State::Down(_)) {
            self.health.up();
        }
        if !latch.await {
            let _ = std::fs::remove_file(&part);
            return Outcome::Withheld;
        }
        match std::fs::rename(&part, &whole) {
            Ok(()) => Outcome::Sent(None),
            Err(error) => Outcome::Interrupted(format!("{}: {error}", whole.display()), None),
        }
    }
}
