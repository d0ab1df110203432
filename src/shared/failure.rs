//! The reasons why Redis did not help, in our own words. Pure.
//!
//! Nothing that Redis sent is repeated, except for an error code that is known.

use std::{error::Error as StdError, fmt, sync::Arc};

use redis::{ErrorKind, RedisError};

use crate::endpoint::transport::Cause;

/// A step in which Redis failed, and why.
#[derive(Debug)]
pub(super) struct RedisFailure {
    pub(super) step: Step,
    pub(super) reason: Reason,
}

/// A step of a fetch that needs Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    /// Looks up the entry and tries the lock.
    Acquire,
    /// Extends the lease.
    Renew,
    /// Writes the entry, then releases the lock.
    Publish,
    Release,
}

#[derive(Debug)]
pub(super) enum Reason {
    TooSlow,
    Unreachable(Option<Cause>),
    /// An error that Redis answered with, as advice.
    Refused(&'static str),
    /// The code of any other error. `None` if it is not a known one.
    Answered(Option<&'static str>),
    Malformed,
    UselessEntries,
    Settings,
    NoRandomness,
    Panicked,
}

/// Errors of Redis and Valkey, from 5.0 on, with advice. Any of the words may appear anywhere in the error, because
/// versions differ in what they put around an error from within a script.
const REFUSALS: [(&[&str], &str); 14] = [
    (
        &["NOAUTH"],
        "it wants a password (NOAUTH): put one into the redis_url, or into the settings of your client",
    ),
    (&["WRONGPASS"], WRONG_PASSWORD),
    (
        &["NOPERM", "no permissions", "can't run this command", "ACL failure"],
        "its user lacks a permission (NOPERM): it needs EVAL, GET, SET, DEL, PTTL and TIME on keys that begin with the \
         prefix, ASKING in a cluster, and SELECT for a database",
    ),
    (
        &["READONLY"],
        "it is a read-only replica (READONLY): use the address of the primary",
    ),
    (
        &["OOM"],
        "its memory is full (OOM): give it more, or an eviction policy such as allkeys-lru",
    ),
    (
        &["max number of clients"],
        "it has reached its maxclients: each process that waits for a token holds a connection",
    ),
    (
        &["CLUSTERDOWN"],
        "its cluster is down (CLUSTERDOWN): a part of the slots has no server",
    ),
    (
        &["TRYAGAIN"],
        "its cluster is moving this slot to another node (TRYAGAIN)",
    ),
    (
        &["MOVED", "ASK "],
        "a node of its cluster redirected more than once, or to an address that cannot be used (MOVED or ASK)",
    ),
    (
        &["MASTERDOWN"],
        "it is a replica without a primary (MASTERDOWN): use the address of the primary",
    ),
    (&["LOADING"], "it is still loading its data (LOADING)"),
    (
        &["DB index", "SELECT is not allowed"],
        "it does not have the database of the redis_url: a cluster has database 0 only",
    ),
    (&["unknown command"], "it lacks a command: it needs EVAL and scripts"),
    (
        &["GARBAGE"],
        "something other than an entry had the entry's name, and has been removed",
    ),
];

/// Codes of other errors.
const CODES: [&str; 8] = [
    "ERR",
    "BUSY",
    "CROSSSLOT",
    "EXECABORT",
    "MISCONF",
    "NOREPLICAS",
    "NOSCRIPT",
    "WRONGTYPE",
];

const WRONG_PASSWORD: &str =
    "it does not accept the user or the password: check the redis_url, or the settings of your client";

impl RedisFailure {
    pub(super) fn new(step: Step, reason: impl Into<Reason>) -> Self {
        Self {
            step,
            reason: reason.into(),
        }
    }
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Publish => "publish",
            Self::Release => "release",
        }
    }
}

impl Reason {
    /// Whether Redis may have run the script all the same.
    pub(super) fn script_may_have_run(&self) -> bool {
        !matches!(
            self,
            Self::Refused(_) | Self::Answered(_) | Self::Settings | Self::NoRandomness
        )
    }

    /// The label for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::TooSlow => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) | Self::Answered(_) => "refused",
            Self::Malformed | Self::UselessEntries => "unusable_reply",
            Self::Settings | Self::NoRandomness | Self::Panicked => "internal",
        }
    }

    fn answered(code: &str, detail: &str) -> Self {
        let error = format!("{code} {detail}");
        let refusal = REFUSALS
            .iter()
            .find(|(words, _)| words.iter().any(|word| error.contains(word)));
        match refusal {
            Some((_, advice)) => Self::Refused(advice),
            None => Self::Answered(CODES.into_iter().find(|known| *known == code)),
        }
    }
}

impl From<RedisError> for Reason {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Refused(WRONG_PASSWORD),
            ErrorKind::RESP3NotSupported => {
                Self::Refused("it does not speak RESP3: leave protocol=resp3 out of the redis_url")
            }
            ErrorKind::InvalidClientConfig => Self::Settings,
            ErrorKind::Io | ErrorKind::Client => Self::Unreachable(cause_of(&error)),
            ErrorKind::Server(_) | ErrorKind::Extension => {
                Self::answered(error.code().unwrap_or_default(), error.detail().unwrap_or_default())
            }
            _ => Self::Malformed,
        }
    }
}

/// The crate redis wraps an error into an `Arc`, whose type hides that of the error.
fn cause_of(error: &RedisError) -> Option<Cause> {
    let wrapped = error.source()?.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?;
    Cause::in_chain(&**wrapped).map(Cause::while_connecting)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSlow => "Redis did not answer within the time_limit",
            Self::Unreachable(Some(cause)) => {
                return write!(f, "no connection to Redis: {}", connection_advice(*cause));
            }
            Self::Unreachable(None) => "no connection to Redis: check its address and the network",
            Self::Refused(advice) => return write!(f, "Redis refused: {advice}"),
            Self::Answered(Some(code)) => return write!(f, "Redis answered {code}"),
            Self::Answered(None) => "Redis answered with an unknown error",
            Self::Malformed => "the reply cannot be understood: is this the port of a Redis?",
            Self::UselessEntries => "Redis answers with one entry after another that is of no use",
            Self::Settings => {
                "the crate redis rejects its settings: does #insecure need its feature tls-rustls-insecure?"
            }
            Self::NoRandomness => "the system has no random numbers",
            Self::Panicked => {
                "the crate redis panicked, see its panic message: does rustls have exactly one crypto provider?"
            }
        })
    }
}

/// Advice for a connection to Redis where it differs from that for the token endpoint.
fn connection_advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Reset | Cause::ClosedEarly => {
            "it closed the connection: has it reached its maxclients, or does it want TLS?"
        }
        Cause::CertificateOfUnknownAuthority => {
            "its certificate comes from an unknown authority: give the root certificate to SharedSource::with_client"
        }
        Cause::CertificateForAnotherName => {
            "its certificate is for another name: use the name that is in it, also for each node of a cluster"
        }
        Cause::CertificateNotAccepted => "its certificate is not accepted: check the certificate",
        cause => cause.advice(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(reply: &str) -> String {
        let reply = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap();
        Reason::from(reply.extract_error().unwrap_err()).to_string()
    }

    /// Errors as Redis 6.2, Redis 7.0 and Valkey 9.1 sent them.
    #[test]
    fn an_error_within_a_script_is_understood_in_each_version() {
        let within_6_2 = "ERR Error running script (call to f_ff18): @user_script:25: @user_script: 25: ";
        for (reply, expected) in [
            (
                &*format!("{within_6_2}The user executing the script can't run this command or subcommand"),
                "NOPERM",
            ),
            (
                "@user_script: 4: The user executing the script can't run this command or subcommand",
                "NOPERM",
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: ff18",
                "NOPERM",
            ),
            (
                "ERR ACL failure in script: User canary has no permissions to run the 'set' command",
                "NOPERM",
            ),
            ("NOPERM No permissions to access a key", "NOPERM"),
            (
                &format!("{within_6_2}-OOM command not allowed when used memory > 'maxmemory'."),
                "(OOM)",
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: ff18",
                "(OOM)",
            ),
            (
                &format!("{within_6_2}-READONLY You can't write against a read only replica."),
                "(READONLY)",
            ),
            ("MASTERDOWN Link with MASTER is down", "(MASTERDOWN)"),
            ("NOAUTH Authentication required.", "(NOAUTH)"),
            ("CLUSTERDOWN Hash slot not served", "(CLUSTERDOWN)"),
            ("TRYAGAIN Multiple keys request during rehashing of slot", "(TRYAGAIN)"),
            ("MOVED 3999 canary:6381", "(MOVED or ASK)"),
            ("ERR max number of clients reached", "maxclients"),
            (
                "ERR unknown command `EVAL`, with args beginning with: `canary`",
                "lacks a command",
            ),
        ] {
            let reason = reason(reply);
            assert!(reason.contains(expected), "{reply}: {reason}");
            assert!(!reason.contains("canary") && !reason.contains("ff18"), "{reason}");
        }
    }

    #[test]
    fn of_any_other_error_only_a_known_code_is_repeated() {
        assert_eq!(reason("BUSY canary is running a script"), "Redis answered BUSY");
        for reply in ["canary", "CANARY x", "CANARY", "CANARY-SECRET x", "Zcanary x"] {
            let reason = reason(reply).to_lowercase();
            assert!(!reason.contains("canary"), "{reason}");
        }
    }

    #[test]
    fn what_the_crate_redis_wraps_is_found() {
        for (kind, expected) in [
            (std::io::ErrorKind::ConnectionRefused, "connection refused"),
            (std::io::ErrorKind::BrokenPipe, "maxclients"),
        ] {
            let reason = Reason::from(RedisError::from(std::io::Error::from(kind)));
            assert!(reason.to_string().contains(expected), "{reason}");
        }
    }
}
