//! Failures without a response: their kind and their cause, in our own words. Pure.
//!
//! No error quotes the underlying one or has it as its source, because a server chooses part of its text. That part is
//! the debug data of an HTTP/2 GOAWAY (RFC 9113, section 6.8), or the names in a certificate.

use std::{error::Error as StdError, io, iter, time::Duration};

use crate::error::{Error, ErrorKind};

/// The time limit for connecting: name lookup, proxy and TLS included. A connection that takes longer will most likely
/// fail, and the next address or attempt needs the rest of the time.
pub(super) fn connect_limit(request_timeout: Duration) -> Duration {
    request_timeout * 2 / 5
}

/// The error for a request that failed after this time, and whose `host` the user has configured.
pub(super) fn failure(error: &reqwest::Error, host: &str, elapsed: Duration, request_timeout: Duration) -> Error {
    if error.is_builder() {
        Error::configuration("the token request could not be built: check the token_url")
    } else if error.is_timeout() && error.is_connect() {
        slow_connection(host, elapsed, connect_limit(request_timeout))
    } else if error.is_timeout() {
        let message = format!("the token endpoint at {host} did not answer in time");
        Error::with_message(ErrorKind::Timeout, message)
    } else {
        broken_connection(error, host, error.is_connect())
    }
}

/// The error for a request that was cut off.
pub(super) fn cut_off(host: &str, request_timeout: Duration) -> Error {
    let message = format!(
        "the token endpoint at {host} did not answer within the request_timeout of {request_timeout:?}, which includes \
         connecting"
    );
    Error::with_message(ErrorKind::Timeout, message)
}

/// `reqwest` does not tell which limit a connection exceeded: ours, another one that the `http_client` closure has set,
/// or the kernel's. The time tells, because ours fires when it is due.
fn slow_connection(host: &str, elapsed: Duration, limit: Duration) -> Error {
    let within = if (limit..limit * 5 / 4).contains(&elapsed) {
        format!("within {limit:?}, two fifths of the request_timeout")
    } else {
        "in time".to_owned()
    };
    let message = format!("no connection to {host} {within}: that includes name lookup, proxy and TLS");
    Error::with_message(ErrorKind::Timeout, message)
}

fn broken_connection(error: &(dyn StdError + 'static), host: &str, connecting: bool) -> Error {
    let texts = || causes(error).map(ToString::to_string);
    let proxy = texts().any(|text| text.starts_with(PROXY_NOT_REACHED) || text.starts_with(PROXY_CONNECTION_BROKE));
    let place = if proxy { "the proxy on the way to " } else { "" };
    let what = if connecting {
        format!("no connection to {place}{host}")
    } else {
        format!("the connection to {host} broke off")
    };
    let mut cause = Cause::in_chain(error);
    if connecting {
        cause = cause.map(Cause::while_connecting);
    }
    match cause {
        Some(cause) => Error::with_message(cause.kind(), format!("{what}: {}", cause.advice())),
        None if connecting => Error::with_message(
            ErrorKind::Unavailable,
            format!("{what}: check the token_url, the network and any proxy on the way"),
        ),
        None => Error::with_message(ErrorKind::Unavailable, what),
    }
}

/// The chain of sources, the error itself included. `io::Error::source` skips the error that it wraps, so that one is
/// added.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}

/// Why a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    NameLookup,
    Refused,
    NoRoute,
    Reset,
    ClosedEarly,
    NotHttp,
    ProxyAuthentication,
    ProxyRefused,
    ProxyClosed,
    TlsHandshake,
    Undecodable,
    CertificateExpired,
    CertificateOfUnknownAuthority,
    CertificateForAnotherName,
    CertificateNotAccepted,
}

// Texts of hyper-util's tunnel through a proxy.
const PROXY_NOT_REACHED: &str = "tunnel error: failed to create underlying connection";
const PROXY_CONNECTION_BROKE: &str = "tunnel error: io error establishing tunnel";

/// Error texts, matched by a prefix that no server chooses. Their types are private, or belong to a crate that is not
/// in every build. If a text changes, its cause is no longer found, and the message becomes more general.
const TEXTS: [(&str, Cause); 13] = [
    // std
    ("failed to lookup address information", Cause::NameLookup),
    // hyper-util and hyper
    ("dns error", Cause::NameLookup),
    ("tunnel error: proxy authorization required", Cause::ProxyAuthentication),
    ("tunnel error: unsuccessful", Cause::ProxyRefused),
    ("tunnel error: proxy response headers too long", Cause::ProxyRefused),
    ("tunnel error: unexpected end of file", Cause::ProxyClosed),
    ("connection closed before message completed", Cause::ClosedEarly),
    ("end of file before message length reached", Cause::ClosedEarly),
    ("invalid HTTP", Cause::NotHttp),
    // rustls, where it is not in an io::Error
    ("received fatal alert", Cause::TlsHandshake),
    ("received corrupt message", Cause::TlsHandshake),
    // OpenSSL
    ("error:", Cause::TlsHandshake),
    ("unexpected EOF", Cause::ClosedEarly),
];

/// What rustls and OpenSSL say about a certificate.
const CERTIFICATE_TEXTS: [(&str, Cause); 14] = [
    ("certificate expired", Cause::CertificateExpired),
    ("certificate not valid yet", Cause::CertificateExpired),
    ("certificate has expired", Cause::CertificateExpired),
    ("certificate is not yet valid", Cause::CertificateExpired),
    ("UnknownIssuer", Cause::CertificateOfUnknownAuthority),
    // An authority with the name of a known one.
    ("BadSignature", Cause::CertificateOfUnknownAuthority),
    ("certificate signature failure", Cause::CertificateOfUnknownAuthority),
    ("unable to get", Cause::CertificateOfUnknownAuthority),
    ("self-signed certificate", Cause::CertificateOfUnknownAuthority),
    ("self signed certificate", Cause::CertificateOfUnknownAuthority),
    ("certificate not valid for name", Cause::CertificateForAnotherName),
    ("NotValidForName", Cause::CertificateForAnotherName),
    ("hostname mismatch", Cause::CertificateForAnotherName),
    ("IP address mismatch", Cause::CertificateForAnotherName),
];

impl Cause {
    /// The first known cause in the error's chain of sources.
    pub(crate) fn in_chain(error: &(dyn StdError + 'static)) -> Option<Self> {
        causes(error).find_map(Self::of)
    }

    /// While connecting, only TLS decodes what arrives. Afterwards HTTP and decompressors do so as well.
    pub(crate) fn while_connecting(self) -> Self {
        match self {
            Self::Undecodable => Self::TlsHandshake,
            cause => cause,
        }
    }

    fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let text = error.to_string();
        let find = |texts: &[(&str, Self)], text: &str| {
            let known = texts.iter().find(|(beginning, _)| text.starts_with(beginning));
            known.map(|&(_, cause)| cause)
        };
        if let Some(problem) = certificate_problem(&text) {
            return find(&CERTIFICATE_TEXTS, problem).or(Some(Self::CertificateNotAccepted));
        }
        find(&TEXTS, &text).or_else(|| error.downcast_ref().and_then(Self::of_io))
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some(Self::NoRoute),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Some(Self::Reset)
            }
            io::ErrorKind::UnexpectedEof => Some(Self::ClosedEarly),
            // From tokio-rustls, hyper or a decompressor.
            io::ErrorKind::InvalidData if error.get_ref().is_some() => Some(Self::Undecodable),
            _ => None,
        }
    }

    /// Waiting does not fix a certificate. It may end a proxy's refusal, whose status is not known.
    fn kind(self) -> ErrorKind {
        match self {
            Self::CertificateExpired
            | Self::CertificateOfUnknownAuthority
            | Self::CertificateForAnotherName
            | Self::CertificateNotAccepted => ErrorKind::Configuration,
            _ => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::NameLookup => "its name lookup failed",
            Self::Refused => "connection refused",
            Self::NoRoute => "the network has no route to it",
            Self::Reset => "the connection was reset",
            Self::ClosedEarly => "the connection was closed early",
            Self::NotHttp => "the answer is not HTTP/1.1",
            Self::ProxyAuthentication => "the proxy wants a user and a password (407): put them into the proxy's URL",
            Self::ProxyRefused => "the proxy refused the connection (CONNECT): it has to allow this host",
            Self::ProxyClosed => "the proxy closed the connection",
            Self::TlsHandshake => "the TLS handshake failed: does this port speak TLS 1.2 or later?",
            Self::Undecodable => "what it sent cannot be decoded: does a gateway change it?",
            Self::CertificateExpired => {
                "its certificate has expired or is not valid yet: check it, and the clock of this machine"
            }
            Self::CertificateOfUnknownAuthority => {
                "its certificate comes from an unknown authority: if a proxy intercepts TLS, add its root certificate \
                 with http_client"
            }
            Self::CertificateForAnotherName => {
                "its certificate is for another name: check the token_url and any proxy on the way"
            }
            Self::CertificateNotAccepted => {
                "its certificate is not accepted: check it, the token_url and any proxy on the way"
            }
        }
    }
}

/// What is wrong with the peer's certificate, as rustls or OpenSSL puts it.
fn certificate_problem(text: &str) -> Option<&str> {
    if let Some(problem) = text.strip_prefix("invalid peer certificate: ") {
        return Some(problem);
    }
    // error:0A000086:SSL routines:…:certificate verify failed:…:1889: (certificate has expired)
    let (_, problem) = text.strip_prefix("error:")?.split_once(":certificate verify failed:")?;
    problem.rsplit_once('(').map(|(_, problem)| problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Certificates as OpenSSL refuses them through native-tls, which the tests are not built with.
    #[test]
    fn the_words_of_openssl_are_understood() {
        let openssl = "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:\
                       ../ssl/statem/statem_clnt.c:1889: ";
        for (reason, cause) in [
            ("(certificate has expired)", Cause::CertificateExpired),
            ("(certificate is not yet valid)", Cause::CertificateExpired),
            ("(self-signed certificate)", Cause::CertificateOfUnknownAuthority),
            (
                "(unable to get local issuer certificate)",
                Cause::CertificateOfUnknownAuthority,
            ),
            ("(certificate signature failure)", Cause::CertificateOfUnknownAuthority),
            ("(hostname mismatch)", Cause::CertificateForAnotherName),
            ("(IP address mismatch)", Cause::CertificateForAnotherName),
            (
                "(CA signature digest algorithm too weak)",
                Cause::CertificateNotAccepted,
            ),
        ] {
            let error = io::Error::other(format!("{openssl}{reason}"));
            assert_eq!(Cause::of(&error), Some(cause), "{reason}");
            assert_eq!(cause.kind(), ErrorKind::Configuration);
        }
        let error = io::Error::other("error:0A00010B:SSL routines:ssl3_get_record:wrong version number:..:354:");
        assert_eq!(Cause::of(&error), Some(Cause::TlsHandshake));
    }

    #[test]
    fn data_that_cannot_be_decoded_is_a_failed_handshake_only_while_connecting() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "canary");
        for (connecting, words) in [(true, "TLS handshake"), (false, "cannot be decoded")] {
            let error = broken_connection(&error, "host", connecting);
            let shown = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{shown}");
            assert!(shown.contains(words) && !shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn the_limit_is_named_only_if_it_is_ours() {
        let limit = Duration::from_secs(2);
        for (elapsed, ours) in [
            (300, false),
            (1_999, false),
            (2_000, true),
            (2_100, true),
            (3_000, false),
        ] {
            let message = slow_connection("host", Duration::from_millis(elapsed), limit).to_string();
            assert_eq!(message.contains("2s, two fifths"), ours, "{elapsed} ms: {message}");
            assert!(message.contains("name lookup"), "{message}");
        }
    }
}
