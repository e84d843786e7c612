//! Writes mail to a folder, one `.eml` file each (`EMAIL_BACKEND=file`, and the embedded mode).

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Channel, Outcome, Outgoing, Slot, email::Sender};
use crate::private_files;

pub struct FileChannel {
    sender: Sender,
    folder: PathBuf,
}

impl FileChannel {
    /// Creates the folder if it is missing. Mail in it becomes readable for this user alone; a folder that
    /// exists keeps its own mode.
    ///
    /// # Errors
    /// The folder can't be created, or a mail in it is another user's.
    pub fn new(sender: Sender, folder: PathBuf) -> std::io::Result<Self> {
        private_files::create_folder(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml" || extension == "part") {
                private_files::close(&path)?;
            }
        }
        Ok(Self { sender, folder })
    }
}

#[async_trait]
impl Channel for FileChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        super::email::check_recipient(address)
    }

    async fn ready(&self, _route: &str) -> Box<dyn Slot> {
        Box::new(FileSlot { sender: self.sender.clone(), folder: self.folder.clone() })
    }
}

struct FileSlot {
    sender: Sender,
    folder: PathBuf,
}

#[async_trait]
impl Slot for FileSlot {
    async fn send(self: Box<Self>, message: &Outgoing, latch: BoxFuture<'_, bool>) -> Outcome {
        let mail = match self.sender.compose_aside(message).await {
            Ok(mail) => mail,
            Err(reason) => return Outcome::Impossible(reason),
        };
        if !latch.await {
            return Outcome::Withheld;
        }
        // The Message-ID names the file, so a second copy replaces the first. The rename is atomic.
        let name = message.message_id.trim_matches(['<', '>']).split('@').next().unwrap_or("mail");
        let part = self.folder.join(format!(".{name}.part"));
        let whole = self.folder.join(format!("{name}.eml"));
        let path = whole.clone();
        let written = tokio::task::spawn_blocking(move || {
            private_files::write(&part, &mail.text)?;
            std::fs::rename(&part, &path)
        });
        match written.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => Outcome::Sent(None),
            Err(error) => Outcome::Interrupted(format!("{}: {error}", whole.display()), None),
        }
    }
}
