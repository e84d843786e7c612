//! Certificate files: whether they can be used, and whether the URL asks for encryption.

use super::{email::check_together, settings::Secret, validate::Reader, values as v};
use crate::tls::{TlsFiles, certificates, private_key};

/// The files of the service whose settings have this prefix. They are read, so that faults are reported
/// at start.
pub(super) fn files(r: &mut Reader, service: &str) -> TlsFiles {
    let [ca, cert, key] = names(service);
    let with_certificate = |text: &str| {
        let path = v::path(text)?;
        certificates(&path).map(|_| path)
    };
    let files = TlsFiles {
        ca: r.read(&ca, with_certificate),
        cert: r.read(&cert, with_certificate),
        // MongoDB's driver takes one file for both.
        key: if service == "MONGODB" {
            None
        } else {
            check_key_has_certificate(r, &cert, &key);
            r.read(&key, |text| {
                let path = v::path(text)?;
                private_key(&path).map(|_| path)
            })
        },
    };
    if let (Some(path), None) = (&files.cert, &files.key)
        && (service == "MONGODB" || !r.is_set(&key))
        && let Err(reason) = private_key(path)
    {
        r.fault(&cert, reason);
    }
    files
}

/// The same for services whose URL says whether the connection is encrypted.
pub(super) fn files_for(r: &mut Reader, service: &str, url: &Secret) -> TlsFiles {
    let files = files(r, service);
    let (encrypted, wanted) = match service {
        "RABBITMQ" => (url.expose().starts_with("amqps:"), "RABBITMQ_URL with amqps://"),
        "REDIS" => (url.expose().starts_with("rediss"), "REDIS_URL with rediss://"),
        "STREAM" => (url.expose().starts_with("rediss"), "STREAM_URL with rediss://"),
        _ => (asks_for_tls(url.expose()), "MONGODB_URI with tls=true"),
    };
    // An empty URL is reported elsewhere.
    if !encrypted && !url.expose().is_empty() {
        let [ca, cert, _] = names(service);
        for name in [ca, cert] {
            if r.is_set(&name) {
                r.fault(&name, format!("needs {wanted}, because the connection is not encrypted"));
            }
        }
    }
    files
}

fn names(service: &str) -> [String; 3] {
    ["CA", "CERT", "KEY"].map(|kind| format!("{service}_{kind}_FILE"))
}

fn check_key_has_certificate(r: &mut Reader, cert: &str, key: &str) {
    if r.is_set(key) {
        check_together(r, &[key, cert]);
    }
}

fn asks_for_tls(uri: &str) -> bool {
    let options = uri.split_once('?').map_or("", |(_, options)| options);
    let has = |wanted: &str| options.split('&').any(|option| option.eq_ignore_ascii_case(wanted));
    match has("tls=true") || has("ssl=true") {
        true => true,
        false => uri.starts_with("mongodb+srv:") && !has("tls=false") && !has("ssl=false"),
    }
}
