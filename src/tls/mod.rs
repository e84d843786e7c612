//! Certificates in files. They are renewed while usher runs, so clients built from them are built again
//! when the files change.

mod client;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub(crate) use client::{client_config, connector};

/// PEM files for an encrypted connection, found usable at start.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Authorities to trust (`…_CA_FILE`).
    pub ca: Option<PathBuf>,
    /// The client certificate, with what leads to its authority (`…_CERT_FILE`).
    pub cert: Option<PathBuf>,
    /// Its private key (`…_KEY_FILE`); `None`: in the certificate's file.
    pub key: Option<PathBuf>,
}

/// Contents of the files. No `Debug`, because of the private key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem {
    /// Trusted authorities.
    pub ca: Option<Vec<u8>>,
    /// The client certificate and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Pem {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// The first file that can't be used, and the reason.
    pub fn read(files: &TlsFiles) -> Result<Self, String> {
        let ca = files.ca.as_deref().map(certificates).transpose()?;
        let identity = |cert: &Path| {
            let key = private_key(files.key.as_deref().unwrap_or(cert))?;
            Ok::<_, String>((certificates(cert)?, key))
        };
        Ok(Self { ca, identity: files.cert.as_deref().map(identity).transpose()? })
    }
}

/// Reads a PEM file with at least one certificate.
///
/// # Errors
/// The file can't be read or has no certificate.
pub fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    let all = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} holds no certificate", path.display())),
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Reads a PEM file with a private key without a password.
///
/// # Errors
/// The file can't be read or has no such key.
pub fn private_key(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        // The error's own text may quote the key.
        Err(_) => Err(format!("{} holds no private key without a password", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Builds a client from certificates.
type Build<T> = Box<dyn Fn(&Pem) -> Result<T, String> + Send + Sync>;

/// A client that is built again when its certificates change.
pub struct Renewed<T> {
    service: &'static str,
    files: TlsFiles,
    build: Build<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Contents at the last read, usable or not, so that a change is logged once.
    read: Result<Pem, String>,
    current: T,
}

impl<T: Clone> Renewed<T> {
    /// Reads the files and builds the first one.
    ///
    /// # Errors
    /// The files can't be used.
    pub fn new(
        service: &'static str,
        files: TlsFiles,
        build: impl Fn(&Pem) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let pem = Pem::read(&files)?;
        let state = State { current: build(&pem)?, read: Ok(pem) };
        Ok(Self { service, files, build: Box::new(build), state: Mutex::new(state) })
    }

    /// The current one, without a look at the files.
    pub fn last(&self) -> T {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// The current one, built from the files as they are now; the last good one while the files can't be
    /// used.
    pub fn current(&self) -> T {
        let read = Pem::read(&self.files);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if read != state.read {
            match read.as_ref().map_err(Clone::clone).and_then(&self.build) {
                Ok(built) => {
                    tracing::info!(service = self.service, "certificates have changed");
                    state.current = built;
                }
                Err(reason) => tracing::warn!(
                    service = self.service,
                    reason,
                    "changed certificates can't be used, the last ones stay in use"
                ),
            }
            state.read = read;
        }
        state.current.clone()
    }
}
