//! Reaching a name that has several addresses (RFC 8305): one that is silent holds nobody up.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::sleep,
};

/// How long an address is waited for before the next one is tried as well (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A connection to the first address that answers. `avoided` is tried last.
pub(super) async fn connect(
    host: &str,
    port: u16,
    avoided: Option<SocketAddr>,
) -> io::Result<TcpStream> {
    let found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let mut addresses = in_turn(&found, avoided);
    let mut tries = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = addresses.pop_front() {
            tries.push(TcpStream::connect(address));
        } else if tries.is_empty() {
            return Err(failed);
        }
        let next = async {
            match addresses.is_empty() {
                true => std::future::pending().await,
                false => sleep(NEXT_ADDRESS).await,
            }
        };
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                // Commands are small, and each waits for its reply.
                Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
                Err(error) => failed = error,
            },
            () = next => {}
        }
    }
}

/// The families in turn, in the resolver's order otherwise (RFC 8305 section 4).
fn in_turn(addresses: &[SocketAddr], avoided: Option<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let of = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
    let (mut ones, mut others) = (of(first_is_v6), of(!first_is_v6));
    let mut found = VecDeque::new();
    loop {
        let before = found.len();
        found.extend(ones.next());
        found.extend(others.next());
        if found.len() == before {
            break;
        }
    }
    if let Some(index) = found.iter().position(|address| Some(*address) == avoided) {
        let last = found.remove(index);
        found.extend(last);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_avoided_one_comes_last() {
        let parse = |all: &[&str]| {
            all.iter().filter_map(|one| one.parse().ok()).collect::<Vec<SocketAddr>>()
        };
        let given = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        let turns = parse(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turn(&given, None), turns);
        assert_eq!(in_turn(&given, Some(turns[0])).back(), Some(&turns[0]));
        let one = parse(&["127.0.0.1:1"]);
        assert_eq!(in_turn(&one, Some(one[0])), one);
    }
}
