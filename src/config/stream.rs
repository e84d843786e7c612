//! Settings of the Redis Streams that are forwarded.

use super::{
    settings::{Endpoint, Stream},
    tls,
    validate::Reader,
    values as v,
};

/// `None` if no server is set.
pub(super) fn stream(r: &mut Reader) -> Option<Stream> {
    let url = r.read("STREAM_URL", v::redis_url);
    let tls = tls::files_for(r, "STREAM", &url.clone().unwrap_or_default());
    let keys = r.read("STREAM_KEYS", v::list(v::stream_key));
    Some(Stream { server: Endpoint { url: url?, tls }, keys: keys? })
}
