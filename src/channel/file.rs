//! Writes mail to a folder, one `.eml` file each (`EMAIL_BACKEND=file`, and the embedded mode).

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Channel, Outcome, Outgoing, Slot, email::Sender};

pub struct FileChannel {
    sender: Sender,
    folder: PathBuf,
}

impl FileChannel {
    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// The folder can't be created.
    pub fn new(sender: Sender, folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { sender, folder })
    }
}

#[async_trait]
impl Channel for FileChannel {
    fn check_recipient(&self, address: &str) -> Result<(), String> {
        super::email::check_recipient(address)
    }

    async fn ready(&self) -> Box<dyn Slot> {
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
        let written = async {
            tokio::fs::write(&part, &mail.text).await?;
            tokio::fs::rename(&part, &whole).await
        };
        match written.await {
            Ok(()) => Outcome::Sent(None),
            Err(error) => Outcome::Interrupted(format!("{}: {error}", whole.display()), None),
        }
    }
}
