//! DKIM signatures (RFC 6376), by RSA or by Ed25519 (RFC 8463).
//!
//! It signs mail that usher composed: relaxed canonicalisation, the whole body.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

/// The signed header fields. A field that a mail lacks is signed as missing, and `From` once more than it
/// occurs, so that another one can't be added (RFC 6376 8.15).
const SIGNED: &str = "from:from:to:subject:date:message-id:reply-to:\r\n\t\
                      mime-version:content-type:auto-submitted";

/// Signs mail for one domain.
#[derive(Debug)]
pub(super) struct Signer {
    selector: String,
    domain: String,
    key: Key,
}

// `Debug` of ring's key pairs shows only the public half.
#[derive(Debug)]
enum Key {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    /// The public key is published at `<selector>._domainkey.<domain>`.
    pub(super) fn new(selector: &str, domain: &str, pem: &str) -> Result<Self, String> {
        let key = Key::read(pem)?;
        // ring checks the parts of an RSA key against each other only when it signs.
        key.sign(b"")?;
        Ok(Self { selector: selector.to_owned(), domain: domain.to_owned(), key })
    }

    /// Prepends a signature to the mail. RSA with 2048 bits takes half a millisecond, Ed25519 30 µs, so it
    /// stays on the runtime's thread.
    pub(super) fn sign(&self, mail: &str, at: Timestamp) -> Result<String, String> {
        let (head, body) = mail.split_once("\r\n\r\n").ok_or("the mail has no body")?;
        let mut field = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; d={};\r\n\ts={}; t={};\r\n\th={SIGNED};\r\n\tbh={};\r\n\tb=",
            self.key.algorithm(),
            self.domain,
            self.selector,
            at.as_second(),
            STANDARD.encode(body_hash(body)),
        );
        // RFC 6376 3.7: the signature's own field comes last, without a signature and a line end.
        let mut input = signed_fields(head);
        input.push_str(relaxed_fields(&field).trim_end());
        let signature = STANDARD.encode(self.key.sign(input.as_bytes())?);
        for (index, digit) in signature.chars().enumerate() {
            if index > 0 && index % 72 == 0 {
                field.push_str("\r\n\t");
            }
            field.push(digit);
        }
        field.push_str("\r\n");
        Ok(field + mail)
    }
}

impl Key {
    /// # Errors
    /// The key can't be used. The reason shows nothing of it.
    fn read(pem: &str) -> Result<Self, String> {
        let rsa = |pair: RsaKeyPair| Self::Rsa(Box::new(pair));
        let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => {
                let der = der.secret_pkcs8_der();
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .map(Self::Ed25519)
                    .or_else(|_| RsaKeyPair::from_pkcs8(der).map(rsa))
            }
            Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map(rsa),
            Ok(_) => return Err("must be an RSA or an Ed25519 key".to_owned()),
            Err(_) => return Err("must be an unencrypted private key in PEM".to_owned()),
        };
        // RFC 8301 3.2 allows RSA keys of 1024 bits; ring signs with 2048 or more.
        key.map_err(|error| format!("must be RSA with 2048 to 4096 bits or Ed25519 ({error})"))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    fn sign(&self, input: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature)
                    .map_err(|_| "signs nothing: the parts of the key do not fit together")?;
                Ok(signature)
            }
            // RFC 8463 3: the signature is over the hash.
            Self::Ed25519(pair) => Ok(pair.sign(&Sha256::digest(input)).as_ref().to_vec()),
        }
    }
}

/// The fields of [`SIGNED`] in its order; of several with the same name, the lower ones first (5.4.2).
fn signed_fields(head: &str) -> String {
    let fields = relaxed_fields(head);
    let mut fields: Vec<&str> = fields.split_inclusive("\r\n").collect();
    let mut found = String::new();
    for name in SIGNED.split(':').map(str::trim) {
        let is_named = |field: &&str| field.split(':').next() == Some(name);
        if let Some(index) = fields.iter().rposition(is_named) {
            found.push_str(fields.remove(index));
        }
    }
    found
}

/// Header fields in relaxed form (3.4.2), each with its line end.
fn relaxed_fields(head: &str) -> String {
    let unfolded = head.replace("\r\n\t", " ").replace("\r\n ", " ");
    let fields = unfolded.split("\r\n").filter_map(|field| field.split_once(':'));
    let relaxed = fields.map(|(name, value)| {
        format!("{}:{}\r\n", name.trim_end().to_ascii_lowercase(), relaxed(value).trim_start())
    });
    relaxed.collect()
}

/// The hash of the body in relaxed form (3.4.4).
fn body_hash(body: &str) -> impl AsRef<[u8]> {
    let mut hash = Sha256::new();
    let mut empty_lines = 0;
    for line in body.split("\r\n") {
        let line = relaxed(line);
        if line.is_empty() {
            // They count only if another line follows.
            empty_lines += 1;
            continue;
        }
        hash.update("\r\n".repeat(std::mem::take(&mut empty_lines)));
        hash.update(line);
        hash.update("\r\n");
    }
    hash.finalize()
}

/// Reduces each run of blanks to one space and removes those at the end.
fn relaxed(text: &str) -> String {
    let mut relaxed = String::with_capacity(text.len());
    let mut blank = false;
    for c in text.chars() {
        let was_blank = std::mem::replace(&mut blank, matches!(c, ' ' | '\t'));
        if !blank {
            if was_blank {
                relaxed.push(' ');
            }
            relaxed.push(c);
        }
    }
    relaxed
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of RFC 6376 3.4.5.
    #[test]
    fn header_fields_are_relaxed() {
        assert_eq!(relaxed_fields("A: X\r\nB : Y\t\r\n\tZ  \r\n"), "a:X\r\nb:Y Z\r\n");
    }

    #[test]
    fn bodies_are_relaxed() {
        let hash = |text: &str| hex::encode(Sha256::digest(text));
        for (body, relaxed) in [
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
            ("C\r\n\r\n \t\r\nD", "C\r\n\r\n\r\nD\r\n"),
            ("\r\n\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(hex::encode(body_hash(body)), hash(relaxed), "{body:?}");
        }
    }

    #[test]
    fn the_lowest_field_of_a_name_is_signed_first_and_a_missing_one_is_nothing() {
        let head = "X-A: no\r\nFrom: one\r\nSubject: s\r\nFROM: two\r\n  lines";
        assert_eq!(signed_fields(head), "from:two lines\r\nfrom:one\r\nsubject:s\r\n");
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        let pem = |kind: &str| format!("-----BEGIN {kind}-----\nc2VjcmV0\n-----END {kind}-----\n");
        for text in [
            "secret".to_owned(),
            "-----BEGIN secret".to_owned(),
            pem("PRIVATE KEY"),
            pem("RSA PRIVATE KEY"),
            pem("EC PRIVATE KEY"),
            pem("ENCRYPTED PRIVATE KEY"),
        ] {
            let reason = Signer::new("s", "example.com", &text).unwrap_err();
            assert!(reason.starts_with("must be "), "{reason}");
            assert!(!reason.contains("secret") && !reason.contains("c2Vj"), "{reason}");
        }
    }
}
