//! Who may ask: networks of clients and what they share with the server.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use gose_proto::radius::server::Client;

/// An address and the bits of it that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.bits) == masked(self.address, self.bits)
    }
}

/// The address with the bits behind the first `bits` cleared.
fn masked(address: IpAddr, bits: u8) -> u128 {
    let (value, width) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), Ipv6Addr::BITS),
    };
    let behind = width.saturating_sub(u32::from(bits));
    value.checked_shr(behind).unwrap_or(0)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is no network; write 192.0.2.0/24, 2001:db8::/32 or one address")
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| wrong()))?;
        let network = Self { address, bits };
        // Bits behind the prefix are a typing error more often than a wish.
        let stray = u32::from(width - bits.min(width));
        if bits > width
            || masked(address, bits).checked_shl(stray).unwrap_or(0) != masked(address, width)
        {
            return Err(wrong());
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The clients of a server.
#[derive(Clone, Default)]
pub struct Clients(Vec<(Network, Arc<Client>)>);

impl Clients {
    /// Clients by network, in any order.
    #[must_use]
    pub fn new(mut clients: Vec<(Network, Arc<Client>)>) -> Self {
        clients.sort_by_key(|(network, _)| std::cmp::Reverse(network.bits));
        Self(clients)
    }

    /// The client whose network is the smallest that holds the address.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&Arc<Client>> {
        self.0
            .iter()
            .find(|(network, _)| network.contains(address))
            .map(|(_, client)| client)
    }
}

#[cfg(test)]
mod tests {
    use gose_proto::radius::Secret;

    use super::*;

    #[test]
    fn networks() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                expected,
                "{address} in {network}"
            );
        };
        check("192.0.2.0/24", "192.0.2.77", true);
        check("192.0.2.0/24", "192.0.3.1", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("0.0.0.0/0", "::ffff:203.0.113.9", true);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db9::1", true);
        check("::1", "::1", true);
    }

    #[test]
    fn what_is_no_network() {
        for text in [
            "",
            "x",
            "192.0.2.0/33",
            "2001:db8::/129",
            "192.0.2.1/24",
            "192.0.2.0/",
            "192.0.2.0/-1",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_smallest_network_counts() {
        let client = |network: &str, name: &str| {
            let secret = Secret::new(b"s".to_vec()).unwrap();
            (
                network.parse().unwrap(),
                Arc::new(Client {
                    name: name.into(),
                    secret,
                    disconnect_port: None,
                }),
            )
        };
        let clients = Clients::new(vec![
            client("10.0.0.0/8", "all"),
            client("10.1.0.0/16", "some"),
        ]);
        let find = |address: &str| {
            clients
                .find(address.parse().unwrap())
                .map(|client| client.name.clone())
        };
        assert_eq!(find("10.1.2.3").as_deref(), Some("some"));
        assert_eq!(find("10.2.2.3").as_deref(), Some("all"));
        assert_eq!(find("11.0.0.1"), None);
    }
}
