//! Which address a client is counted by: its own, or behind a trusted proxy what that says.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The address that counts. `peer` is who the socket leads to, `None` for a Unix socket; `forwarded` are the values of `X-Forwarded-For` in their order. What a client
/// that is no trusted proxy says is not looked at. `None` where nobody knows.
#[must_use]
pub fn address<'h>(
    peer: Option<IpAddr>,
    proxies: &[IpNet],
    trusted_unix: bool,
    forwarded: impl DoubleEndedIterator<Item = &'h str>,
) -> Option<IpAddr> {
    let peer = peer.map(|ip| ip.to_canonical());
    let trusted = |ip: &IpAddr| proxies.iter().any(|network| network.contains(ip));
    if !peer.as_ref().map_or(trusted_unix, trusted) {
        return peer;
    }
    // From the last, which the nearest proxy wrote: the first that is no proxy of ours is the client. What is no address ends the search: nobody trusted wrote it.
    let mut last = peer;
    for value in forwarded.rev() {
        for part in value.rsplit(',') {
            let Some(ip) = parse(part.trim()) else { return last };
            last = Some(ip);
            if !trusted(&ip) {
                return last;
            }
        }
    }
    last
}

/// An address, also as `1.2.3.4:567` or `[::1]:567`.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    bare.or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())).map(|ip| ip.to_canonical())
}

/// The key by which an address is counted: a host is given a whole /64 in IPv6, and could use each address of it once.
#[must_use]
pub fn counted(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let of = |peer, headers: &[&str]| address(peer, &proxies, false, headers.iter().copied());
        assert_eq!(of(ip("1.1.1.1"), &["9.9.9.9"]), ip("1.1.1.1"), "not from a proxy");
        assert_eq!(of(ip("10.0.0.1"), &["9.9.9.9"]), ip("9.9.9.9"));
        assert_eq!(of(ip("10.0.0.1"), &["8.8.8.8, 9.9.9.9, 10.0.0.7"]), ip("9.9.9.9"), "the forged one is passed over");
        assert_eq!(of(ip("10.0.0.1"), &["8.8.8.8", "9.9.9.9:1234"]), ip("9.9.9.9"), "the last header is the nearest");
        assert_eq!(of(ip("10.0.0.1"), &["9.9.9.9, rubbish"]), ip("10.0.0.1"));
        assert_eq!(of(ip("10.0.0.1"), &[]), ip("10.0.0.1"));
        assert_eq!(of(ip("::ffff:1.1.1.1"), &[]), ip("1.1.1.1"));
        assert_eq!(of(None, &["9.9.9.9"]), None);
        assert_eq!(address(None, &[], true, ["9.9.9.9"].into_iter()), ip("9.9.9.9"));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let key = |text: &str| counted(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
