//! Certificates on disk. They are renewed while usher runs, so what is made of them is made again
//! once the files have changed.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::TlsFiles;

/// What the files held when they were read. No `Debug`: it has the private key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem {
    /// Authorities to trust.
    pub ca: Option<Vec<u8>>,
    /// The client certificate and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    /// Reads the files, and sees that there is in them what should be.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub fn read(files: &TlsFiles) -> Result<Self, String> {
        let ca = files.ca.as_deref().map(certificates).transpose()?;
        let identity = |cert: &Path| {
            let key = private_key(files.key.as_deref().unwrap_or(cert))?;
            Ok::<_, String>((certificates(cert)?, key))
        };
        Ok(Self { ca, identity: files.cert.as_deref().map(identity).transpose()? })
    }
}

/// A PEM file with at least one certificate.
///
/// # Errors
/// It is none.
pub fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    let all = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} holds no certificate", path.display())),
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// A PEM file with a private key that no password protects.
///
/// # Errors
/// It is none.
pub fn private_key(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        // The error's own text may quote what stands there.
        Err(_) => Err(format!("{} holds no private key without a password", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// How something is made of certificates.
type Make<T> = Box<dyn Fn(&Pem) -> Result<T, String> + Send + Sync>;

/// Something made of certificates, and made again when they have changed.
pub struct Renewed<T> {
    service: &'static str,
    files: TlsFiles,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// What was read last, usable or not, so that a change is told once.
    read: Result<Pem, String>,
    made: T,
}

impl<T: Clone> Renewed<T> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// The files can't be used.
    pub fn new(
        service: &'static str,
        files: TlsFiles,
        make: impl Fn(&Pem) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let pem = Pem::read(&files)?;
        let state = State { made: make(&pem)?, read: Ok(pem) };
        Ok(Self { service, files, make: Box::new(make), state: Mutex::new(state) })
    }

    /// What was made last.
    pub fn last(&self) -> T {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).made.clone()
    }

    /// Makes it again, for what was made last is of no use any more.
    pub fn again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.read.as_ref().map_err(Clone::clone).and_then(&self.make) {
            Ok(made) => state.made = made,
            Err(reason) => tracing::warn!(service = self.service, reason, "connecting again"),
        }
    }

    /// What the files make now; while they can't be used, what they made before.
    pub fn now(&self) -> T {
        let read = Pem::read(&self.files);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if read != state.read {
            match read.as_ref().map_err(Clone::clone).and_then(&self.make) {
                Ok(made) => {
                    tracing::info!(service = self.service, "certificates have changed");
                    state.made = made;
                }
                Err(reason) => tracing::warn!(
                    service = self.service,
                    reason,
                    "changed certificates can't be used, the last ones go on"
                ),
            }
            state.read = read;
        }
        state.made.clone()
    }
}
