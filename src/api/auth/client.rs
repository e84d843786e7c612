//! The client of a request.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, request::Parts},
};
use ipnet::IpNet;

use crate::api::{ApiState, problem::Problem};

/// The client's address, as far as the proxies in between are trusted. For IPv6 it is the /64
/// network, whose owner has all of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client(pub(crate) IpAddr);

impl FromRequestParts<ApiState> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let peer = peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Ok(Self::from_headers(peer, &parts.headers, &api.proxies))
    }
}

impl Client {
    fn from_headers(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| proxies.iter().any(|known| known.contains(address));
        let mut address = peer.to_canonical();
        let lines = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok());
        let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        // Each proxy appends the address of its client. Everything before an untrusted address is
        // forgeable.
        for hop in hops.iter().rev() {
            if !is_trusted(&address) {
                break;
            }
            let Ok(before) = hop.trim().parse::<IpAddr>() else { break };
            address = before.to_canonical();
        }
        Self(match address {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_are_believed_and_only_about_whom_they_were_asked_by() {
        let of = |peer: &str, forwarded: &[&str]| {
            let proxies = ["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()];
            let line = |line: &&str| ("x-forwarded-for".parse().unwrap(), line.parse().unwrap());
            let headers: HeaderMap = forwarded.iter().map(line).collect();
            Client::from_headers(peer.parse().unwrap(), &headers, &proxies).0.to_string()
        };
        assert_eq!(of("203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
        assert_eq!(of("10.1.1.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.1.1.1", &["1.1.1.1", "198.51.100.1, 192.0.2.1"]), "198.51.100.1");
        assert_eq!(of("::ffff:10.1.1.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.1.1.1", &["nonsense"]), "10.1.1.1");
        assert_eq!(of("10.1.1.1", &[]), "10.1.1.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6", &[]), "2001:db8:1:2::");
    }
}
