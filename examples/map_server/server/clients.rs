//! How many tokens a client may ask for.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

/// Above this many clients, those that have been quiet for a minute are forgotten.
const CLIENTS_KEPT: usize = 10_000;

/// Each client's share.
pub(crate) struct Clients(DefaultKeyedRateLimiter<IpAddr>);

impl Clients {
    pub(crate) fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::keyed(Quota::per_minute(per_minute)))
    }

    /// Or else how long to wait.
    pub(crate) fn admit(&self, client: IpAddr) -> Result<(), Duration> {
        if self.0.len() > CLIENTS_KEPT {
            self.0.retain_recent();
        }
        let admitted = self.0.check_key(&network(client));
        admitted.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// An IPv6 client has 2⁶⁴ addresses to choose from; an IPv4 client has one, though a socket for both calls it
/// `::ffff:192.0.2.1`.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ipv4_address_has_its_own_share_and_ipv6_addresses_share_by_network() {
        let clients = Clients::new(1);
        let admits = |client: &str| clients.admit(client.parse().unwrap()).is_ok();
        assert!(admits("::ffff:192.0.2.1"));
        assert!(admits("::ffff:192.0.2.2"), "another client");
        assert!(!admits("192.0.2.1"), "the same one as the first");
        assert!(admits("2001:db8::1"));
        assert!(!admits("2001:db8::ffff:2"), "the same network");
        assert!(admits("2001:db8:0:1::1"));
    }
}
