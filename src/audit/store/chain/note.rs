//! Signed notes (c2sp.org/signed-note): what an instance says about its logs, signed by Ed25519.

use std::{fmt::Write, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, pem::PemObject};

use super::{Hash, record::from_hex, tree::digest};

/// Name of the key in each signature.
const KEY_NAME: &str = "usher";
/// Of the algorithm Ed25519 in signed notes.
const ED25519_NOTE: u8 = 1;
const CHECKPOINT: &str = "usher.audit/";
const VOID: &str = "usher.void/";
/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Signs notes with the deployment's key.
#[derive(Debug)]
pub struct Signer(Ed25519KeyPair);

/// Keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct PublicKeys(Vec<[u8; 32]>);

impl Signer {
    /// # Errors
    /// It is no Ed25519 key. The reason shows nothing of it.
    pub fn from_pem(pem: &str) -> Result<Self, &'static str> {
        let unusable =
            "must be an unencrypted Ed25519 key in PEM (openssl genpkey -algorithm ed25519)";
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable)?;
        let PrivateKeyDer::Pkcs8(key) = key else { return Err(unusable) };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
        pair.map(Self).map_err(|_| unusable)
    }

    fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    pub(super) fn sign(&self, text: &str) -> String {
        let mut signature = key_id(&self.public()).to_vec();
        signature.extend_from_slice(self.0.sign(text.as_bytes()).as_ref());
        format!("{text}\n\u{2014} {KEY_NAME} {}\n", STANDARD.encode(signature))
    }
}

impl PublicKeys {
    /// # Errors
    /// It is no Ed25519 key.
    pub fn add_pem(&mut self, pem: &str) -> Result<(), &'static str> {
        let unusable = "must be an Ed25519 public key in PEM (openssl pkey -pubout)";
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable)?;
        let key = key.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
        self.0.push(key.ok_or(unusable)?);
        Ok(())
    }

    pub fn add(&mut self, signer: &Signer) {
        self.0.push(signer.public());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of a note that one of the keys signed.
    fn text<'n>(&self, note: &'n str) -> Option<&'n str> {
        let (text, signatures) = note.rsplit_once("\n\n")?;
        let text = note.get(..=text.len())?;
        let is_signed = signatures.lines().any(|line| {
            let signature = line.strip_prefix("\u{2014} ").and_then(|line| line.split_once(' '));
            let signature = signature.and_then(|(_, signature)| STANDARD.decode(signature).ok());
            let Some((id, signature)) = signature.as_deref().and_then(|it| it.split_at_checked(4))
            else {
                return false;
            };
            self.0.iter().any(|key| {
                let public = UnparsedPublicKey::new(&ED25519, key);
                key_id(key) == id && public.verify(text.as_bytes(), signature).is_ok()
            })
        });
        is_signed.then_some(text)
    }
}

fn key_id(public: &[u8; 32]) -> [u8; 4] {
    let hash = digest(&[KEY_NAME.as_bytes(), b"\n", &[ED25519_NOTE], public]);
    [hash[0], hash[1], hash[2], hash[3]]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The log begins.
    Open,
    /// The log goes on.
    Interval,
    /// The log has ended.
    Close,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Open, Self::Interval, Self::Close];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Interval => "interval",
            Self::Close => "close",
        }
    }
}

/// Where a log ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) log: String,
    pub(super) size: u64,
    pub(super) head: Hash,
    /// When its last record may be deleted.
    pub(super) purge_at: Timestamp,
}

/// A statement about a log (c2sp.org/tlog-checkpoint).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// What the log had at that time.
    pub(super) end: End,
    /// Root of the Merkle tree over its hashes; `None` if another instance closed the log.
    pub(super) root: Option<Hash>,
    pub(super) at: Timestamp,
    pub(super) kind: Kind,
    /// Logs that ended before this one began.
    pub(super) after: Vec<End>,
}

impl Checkpoint {
    pub(super) fn sign(&self, signer: &Signer) -> String {
        let Self { end, root, at, kind, after } = self;
        let root = root.map_or_else(|| "-".to_owned(), |root| STANDARD.encode(root));
        let mut text = format!(
            "{CHECKPOINT}{}\n{}\n{root}\nhead {}\npurge_at {}\nat {at}\nkind {}\n",
            end.log,
            end.size,
            hex::encode(end.head),
            end.purge_at,
            kind.as_str(),
        );
        for End { log, size, head, purge_at } in after {
            // Writing to a text never fails.
            let _ = writeln!(text, "after {log} {size} {} {purge_at}", hex::encode(head));
        }
        signer.sign(&text)
    }

    /// `None` if it is not signed by one of the keys, or is something else.
    pub(super) fn read(note: &str, keys: &PublicKeys) -> Option<Self> {
        Self::parse(keys.text(note)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let log = lines.next()?.strip_prefix(CHECKPOINT)?.to_owned();
        let size = lines.next()?.parse().ok()?;
        let root = match lines.next()? {
            "-" => None,
            root => Some(STANDARD.decode(root).ok()?.try_into().ok()?),
        };
        let head = hash(lines.next()?, "head ")?;
        let purge_at = value(lines.next()?, "purge_at ")?;
        let at = value(lines.next()?, "at ")?;
        let kind = lines.next()?.strip_prefix("kind ")?;
        let kind = Kind::ALL.into_iter().find(|it| it.as_str() == kind)?;
        let after = lines.map(|line| {
            let mut parts = line.strip_prefix("after ")?.split(' ');
            Some(End {
                log: parts.next()?.to_owned(),
                size: parts.next()?.parse().ok()?,
                head: from_hex(parts.next()?).ok()?,
                purge_at: parts.next()?.parse().ok()?,
            })
        });
        let after = after.collect::<Option<_>>()?;
        Some(Self { end: End { log, size, head, purge_at }, root, at, kind, after })
    }
}

/// What a signed checkpoint says, for who has it from usher itself.
#[derive(Debug)]
pub struct Statement {
    pub log: String,
    pub size: u64,
    /// `open`, `interval` or `close`.
    pub kind: &'static str,
    pub at: Timestamp,
}

impl Statement {
    /// Reads a note without verifying it; `None` if it is no checkpoint.
    pub fn of(note: &str) -> Option<Self> {
        let (text, _) = note.rsplit_once("\n\n")?;
        let Checkpoint { end, at, kind, .. } = Checkpoint::parse(text)?;
        Some(Self { log: end.log, size: end.size, kind: kind.as_str(), at })
    }
}

/// Why a number has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its record was there already.
    Duplicate,
    /// MongoDB can't store it; its stub has another number.
    Unstorable,
    /// Its instance died before it was stored.
    Lost,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Unstorable => "unstorable",
            Self::Lost => "lost",
        }
    }
}

/// Fills numbers that have no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Void {
    pub(super) log: String,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) prev: Hash,
    /// Of the last number.
    pub(super) hash: Hash,
    pub(super) prev_purge_at: Timestamp,
    pub(super) purge_at: Timestamp,
    pub(super) reason: Reason,
}

impl Void {
    pub(super) fn sign(&self, signer: &Signer) -> String {
        let Self { log, from, to, prev, hash, prev_purge_at, purge_at, reason } = self;
        let (prev, hash, reason) = (hex::encode(prev), hex::encode(hash), reason.as_str());
        signer.sign(&format!(
            "{VOID}{log}\n{from}\n{to}\nprev {prev}\nhash {hash}\nprev_purge_at {prev_purge_at}\n\
             purge_at {purge_at}\nreason {reason}\n"
        ))
    }

    pub(super) fn read(note: &str, keys: &PublicKeys) -> Option<Self> {
        let mut lines = keys.text(note)?.lines();
        let void = Self {
            log: lines.next()?.strip_prefix(VOID)?.to_owned(),
            from: lines.next()?.parse().ok()?,
            to: lines.next()?.parse().ok()?,
            prev: hash(lines.next()?, "prev ")?,
            hash: hash(lines.next()?, "hash ")?,
            prev_purge_at: value(lines.next()?, "prev_purge_at ")?,
            purge_at: value(lines.next()?, "purge_at ")?,
            reason: {
                let reason = lines.next()?.strip_prefix("reason ")?;
                let all = [Reason::Duplicate, Reason::Unstorable, Reason::Lost];
                all.into_iter().find(|it| it.as_str() == reason)?
            },
        };
        (0 < void.from && void.from <= void.to).then_some(void)
    }
}

fn value<T: FromStr>(line: &str, name: &str) -> Option<T> {
    line.strip_prefix(name)?.parse().ok()
}

fn hash(line: &str, name: &str) -> Option<Hash> {
    from_hex(line.strip_prefix(name)?).ok()
}
