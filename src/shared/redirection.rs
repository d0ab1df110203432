//! Redirections of Redis Cluster: the node that a `MOVED` or an `ASK` names. Pure.

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind};

/// The node that has the slot, and how to connect to it.
pub(super) enum Redirection {
    /// For this command and all later ones.
    Moved(ConnectionInfo),
    /// For this command alone, after an `ASKING`: the slot is being moved.
    Ask(ConnectionInfo),
}

impl Redirection {
    /// `None` if the error is not a redirection, or if its address cannot be used. The other node gets the settings of
    /// the connection from which the redirection came: TLS, user and password.
    pub(super) fn of(error: &RedisError, from: &ConnectionInfo) -> Option<Self> {
        let (address, _slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let node = from.clone().set_addr(node(host, port.parse().ok()?, from.addr())?);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Self::Ask(node)),
            _ => Some(Self::Moved(node)),
        }
    }
}

/// The address of another node. A Unix socket leads to one node alone.
fn node(named: &str, port: u16, from: &ConnectionAddr) -> Option<ConnectionAddr> {
    // A cluster that does not know a node's host names it `?`.
    let host = |same: &str| match named.trim_start_matches('[').trim_end_matches(']') {
        "?" => None,
        "" => Some(same.to_owned()),
        other => Some(other.to_owned()),
    };
    match from {
        ConnectionAddr::Tcp(same, _) => Some(ConnectionAddr::Tcp(host(same)?, port)),
        ConnectionAddr::TcpTls {
            host: same,
            insecure,
            tls_params,
            ..
        } => Some(ConnectionAddr::TcpTls {
            host: host(same)?,
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    /// The address that a reply leads to from this URL. With whether it is for one command alone.
    fn redirected(reply: &str, from: &str) -> Option<(bool, ConnectionInfo)> {
        let reply = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap();
        let error = reply.extract_error().unwrap_err();
        match Redirection::of(&error, &from.into_connection_info().unwrap())? {
            Redirection::Moved(node) => Some((false, node)),
            Redirection::Ask(node) => Some((true, node)),
        }
    }

    #[test]
    fn a_redirection_names_host_and_port() {
        for (reply, address) in [
            ("MOVED 3999 10.0.0.7:6381", "10.0.0.7:6381"),
            ("MOVED 3999 node-7.internal:6381", "node-7.internal:6381"),
            ("MOVED 3999 :6381", "first.internal:6381"),
            ("MOVED 3999 ::1:6381", "::1:6381"),
            ("MOVED 3999 [::1]:6381", "::1:6381"),
        ] {
            let (once, node) = redirected(reply, "redis://first.internal:7000").unwrap();
            assert_eq!((once, node.addr().to_string()), (false, address.to_owned()), "{reply}");
        }
        assert!(
            redirected("ASK 3999 10.0.0.7:6381", "redis://first.internal")
                .unwrap()
                .0
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_is_not_followed() {
        for reply in [
            "MOVED",
            "MOVED 3999",
            "MOVED 3999 node",
            "MOVED 3999 node:",
            "MOVED 3999 node:65536",
            "MOVED 3999 node:-1",
            "MOVED 3999 ?:6381",
            "ERR 3999 node:6381",
        ] {
            assert!(redirected(reply, "redis://first.internal").is_none(), "{reply}");
        }
        assert!(redirected("MOVED 3999 10.0.0.7:6381", "unix:///run/redis.sock").is_none());
    }

    #[test]
    fn the_other_node_gets_the_same_user_password_and_tls() {
        let (_, node) = redirected("MOVED 3999 other:6381", "rediss://user:password@first/?protocol=resp3").unwrap();
        let settings = node.redis_settings();
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("user"), Some("password"))
        );
        assert_eq!(settings.protocol(), redis::ProtocolVersion::RESP3);
        assert!(matches!(node.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
    }
}
