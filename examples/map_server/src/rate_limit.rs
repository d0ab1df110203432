//! Rate limit of the token route, per client.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

/// Above this number of clients, those that have been idle for a minute are evicted.
const EVICT_ABOVE: usize = 10_000;

/// Rate limit with a quota for each client.
#[derive(Debug)]
pub struct RateLimit(DefaultKeyedRateLimiter<IpAddr>);

impl RateLimit {
    /// Rate limit with this quota of requests a minute. Zero counts as one.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::keyed(Quota::per_minute(per_minute)))
    }

    /// Counts a request from this client.
    ///
    /// # Errors
    ///
    /// If the client is over its quota: the error is how long it has to wait.
    pub fn admit(&self, client: IpAddr) -> Result<(), Duration> {
        if self.0.len() > EVICT_ABOVE {
            self.0.retain_recent();
        }
        let admitted = self.0.check_key(&network(client));
        admitted.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// Key of a client: its IPv4 address or its IPv6 /64 network.
///
/// An IPv6 client can choose among 2⁶⁴ addresses. A dual-stack socket reports an IPv4 client as `::ffff:192.0.2.1`.
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
    fn each_ipv4_address_and_each_ipv6_network_has_its_own_quota() {
        let rate_limit = RateLimit::new(1);
        let admits = |client: &str| rate_limit.admit(client.parse().unwrap()).is_ok();
        assert!(admits("::ffff:192.0.2.1"));
        assert!(admits("::ffff:192.0.2.2"), "another client");
        assert!(!admits("192.0.2.1"), "the same one as the first");
        assert!(admits("2001:db8::1"));
        assert!(!admits("2001:db8::ffff:2"), "the same network");
        assert!(admits("2001:db8:0:1::1"));
    }
}
