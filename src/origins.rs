//! The origins that may see the token.

use url::{Host, Url};

use crate::error::Error;

/// Exact origins, compared as parsed scheme, host and port (RFC 6454), never as text.
#[derive(Debug, Clone)]
pub(crate) struct AllowedOrigins(Vec<Origin>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    /// `None` for the scheme's default port, which a parsed URL omits.
    port: Option<u16>,
}

/// The one host of the OS Data Hub.
const DATA_HUB_HOST: &str = "api.os.uk";

/// An origin that is shown is cut off here. A host name has 253 characters at most (RFC 1035, section 2.3.4).
const MAX_SHOWN_LENGTH: usize = 280;

impl AllowedOrigins {
    /// `https://api.os.uk` and nothing else.
    pub(crate) fn data_hub() -> Self {
        Self(vec![Origin {
            scheme: "https".to_owned(),
            host: DATA_HUB_HOST.to_owned(),
            port: None,
        }])
    }

    pub(crate) fn add(&mut self, origin: &Url) -> Result<(), Error> {
        let ensure = |valid, what| Error::ensure(valid, format!("the origin of with_origin {what}"));
        ensure(
            may_carry_secrets(origin),
            "has to be https, or http to a loopback address",
        )?;
        ensure(!has_wildcard(origin), "has to name one host, without a wildcard")?;
        ensure(
            origin.username().is_empty() && origin.password().is_none(),
            "must not carry user info",
        )?;
        ensure(
            origin.path() == "/" && origin.query().is_none() && origin.fragment().is_none(),
            "must be scheme, host and port alone, without a path or a query",
        )?;
        // A URL that may carry secrets has a host.
        self.0.extend(Origin::of(origin));
        Ok(())
    }

    /// The allowed origin of the URL, if it has one.
    #[inline]
    pub(crate) fn origin_of(&self, url: &Url) -> Option<&Origin> {
        self.0.iter().find(|origin| origin.is_of(url))
    }
}

impl Origin {
    fn of(url: &Url) -> Option<Self> {
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_owned(),
            port: url.port(),
        })
    }

    /// Equality with `Url::origin()` for http and https, without its allocations.
    #[inline]
    pub(crate) fn is_of(&self, url: &Url) -> bool {
        self.port == url.port() && url.host_str() == Some(self.host.as_str()) && url.scheme() == self.scheme
    }
}

/// Whether the host is that of the Data Hub, with or without the dot of a fully qualified name.
#[inline]
pub(crate) fn is_data_hub(url: &Url) -> bool {
    url.host_str()
        .is_some_and(|host| host.strip_suffix('.').unwrap_or(host) == DATA_HUB_HOST)
}

/// The origin of a URL as text (RFC 6454, section 6.2): scheme, host and port. User info stays out of it.
pub(crate) fn shown(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    origin.chars().take(MAX_SHOWN_LENGTH).collect()
}

/// Whether a secret or a token may go to this URL: over https, or within the machine.
pub(crate) fn may_carry_secrets(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => is_loopback(url),
        _ => false,
    }
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether the host is a pattern such as `*.os.uk`. It is valid in a URL, but no host has that name.
pub(crate) fn has_wildcard(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host.contains('*'))
}

/// The environment variable whose proxy `reqwest` uses for plain http to this URL, unless a client has `no_proxy`.
pub(crate) fn plain_http_proxy(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    // The first variable that is set counts, even if it is empty.
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, variable(name)?)));
    let exempt = first(["NO_PROXY", "no_proxy"])
        .map(|(_, value)| value)
        .unwrap_or_default();
    // An IPv6 address has brackets only in a URL.
    let host = url.host_str()?.trim_matches(['[', ']']);
    let is_name = matches!(url.host(), Some(Host::Domain(_)));
    // CIDR ranges other than the usual one are not worth the code.
    let exempts = |entry: &str| {
        let named = entry.strip_prefix('.').unwrap_or(entry).eq_ignore_ascii_case(host);
        named || (is_name && entry == "*") || (entry == "127.0.0.0/8" && host.starts_with("127."))
    };
    if url.scheme() != "http" || exempt.split(',').map(str::trim).any(exempts) {
        return None;
    }
    let proxies = [["HTTP_PROXY", "http_proxy"], ["ALL_PROXY", "all_proxy"]];
    let proxies = proxies.into_iter().filter_map(first);
    proxies
        .filter(|(_, proxy)| !proxy.is_empty())
        .map(|(name, _)| name)
        .next()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::error::ErrorKind;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_exact_origin_is_in_scope() {
        let allowed = AllowedOrigins::data_hub();
        for inside in [
            "https://api.os.uk",
            "https://api.os.uk/maps/raster/v1/zxy/Road_3857/7/63/42.png?x=1",
            "https://api.os.uk:443/",
            "https://API.OS.UK/",
            "HTTPS://api.os.uk/",
        ] {
            assert!(allowed.origin_of(&url(inside)).is_some(), "{inside}");
        }
        for outside in [
            "http://api.os.uk/",
            "https://api.os.uk.evil.example/",
            "https://api.os.uk:8443/",
            "https://api.os.uk@evil.example/",
            "https://evil.example/https://api.os.uk/",
            "https://evil.example/?u=https://api.os.uk/",
            "https://api.os.uk./",
            "https://xapi.os.uk/",
            "https://os.uk/",
            "https://127.0.0.1/",
            "wss://api.os.uk/",
            "data:text/plain,api.os.uk",
        ] {
            assert!(allowed.origin_of(&url(outside)).is_none(), "{outside}");
        }
    }

    #[test]
    fn the_host_of_the_data_hub_is_known_by_every_scheme_port_and_spelling() {
        for os in [
            "https://api.os.uk",
            "http://api.os.uk/x",
            "https://api.os.uk:8443",
            "https://API.os.uk./",
            "https://user@api.os.uk",
        ] {
            assert!(is_data_hub(&url(os)), "{os}");
        }
        for other in [
            "https://os.uk",
            "https://xapi.os.uk",
            "https://api.os.uk.evil.example",
            "https://api.os.uk..",
            "https://evil.example/api.os.uk",
            "data:text/plain,api.os.uk",
        ] {
            assert!(!is_data_hub(&url(other)), "{other}");
        }
    }

    #[test]
    fn an_origin_is_shown_without_user_info_path_and_query_and_never_at_great_length() {
        assert_eq!(
            shown(&url("HTTP://u:hunter2@API.os.uk.:8080/a?b#c")),
            "http://api.os.uk.:8080"
        );
        assert_eq!(shown(&url("https://gateway.example:443/a")), "https://gateway.example");
        assert_eq!(shown(&url("data:text/plain,x")), "null");
        let long = format!("https://{}.example/", "x".repeat(10_000));
        assert_eq!(shown(&url(&long)).len(), MAX_SHOWN_LENGTH);
    }

    #[test]
    fn an_origin_is_added_only_if_it_is_one_and_safe() {
        for good in [
            "https://gateway.example",
            "https://gateway.example:8443/",
            "http://127.0.0.1:8080",
            "http://127.8.9.10",
            "http://[::1]:8080",
            "http://localhost:8080",
        ] {
            let mut allowed = AllowedOrigins::data_hub();
            allowed.add(&url(good)).unwrap();
            assert!(allowed.origin_of(&url(good)).is_some(), "{good}");
        }
        for bad in [
            "http://gateway.example",
            "http://10.0.0.1",
            "http://localhost.evil.example",
            "https://gateway.example/path",
            "https://gateway.example/?query",
            "https://gateway.example/#fragment",
            "https://*.os.uk",
            "https://%2A.os.uk",
            "https://gateway.*",
            "https://user@gateway.example",
            "https://:hunter2@gateway.example",
            "ftp://gateway.example",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            let error = AllowedOrigins::data_hub().add(&url(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{bad}");
            assert!(error.to_string().contains("with_origin"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_proxy_of_plain_http_is_known_by_its_variable() {
        let found = |url: &str, variables: &[(&str, &str)]| {
            plain_http_proxy(&self::url(url), |name| {
                let set = variables.iter().find(|(set, _)| *set == name);
                set.map(|(_, value)| (*value).to_owned())
            })
        };
        let proxy = "http://proxy.example";
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            assert_eq!(found("http://127.0.0.1", &[(name, proxy)]), Some(name));
            assert_eq!(found("https://127.0.0.1", &[(name, proxy)]), None);
            assert_eq!(found("http://127.0.0.1", &[(name, "")]), None);
        }
        assert_eq!(found("http://127.0.0.1", &[("HTTPS_PROXY", proxy)]), None);
        assert_eq!(found("http://127.0.0.1", &[]), None);
        for (origin, exempt, goes_to_proxy) in [
            ("http://localhost:8080", "localhost", false),
            ("http://127.0.0.1:8080", "10.0.0.0/8, 127.0.0.1", false),
            ("http://127.8.9.10", "127.0.0.0/8", false),
            ("http://[::1]:8080", "::1", false),
            ("http://127.0.0.1", "localhost", true),
            ("http://localhost", "127.0.0.0/8", true),
            ("http://localhost", "", true),
            ("http://localhost", "*", false),
            ("http://127.0.0.1", "*", true),
            ("http://localhost", ".LOCALHOST", false),
        ] {
            let variables = [("HTTP_PROXY", proxy), ("no_proxy", exempt)];
            assert_eq!(found(origin, &variables).is_some(), goes_to_proxy, "{origin} {exempt}");
        }
        // A variable that is set and empty hides its other spelling.
        let hidden = [("HTTP_PROXY", ""), ("http_proxy", proxy)];
        assert_eq!(found("http://localhost", &hidden), None);
        let hidden = [("HTTP_PROXY", proxy), ("NO_PROXY", ""), ("no_proxy", "localhost")];
        assert_eq!(found("http://localhost", &hidden), Some("HTTP_PROXY"));
        let other = [("HTTP_PROXY", ""), ("all_proxy", proxy)];
        assert_eq!(found("http://localhost", &other), Some("all_proxy"));
    }

    fn any_url() -> impl Strategy<Value = Url> {
        let scheme = select(vec!["http", "https"]);
        let host = select(vec![
            "a",
            "A",
            "b",
            "a.",
            "127.0.0.1",
            "127.1",
            "127.0.0.2",
            "[::1]",
            "[0::1]",
        ]);
        let port = select(vec!["", ":", ":80", ":443", ":8443", ":0443"]);
        (scheme, host, port).prop_map(|(scheme, host, port)| url(&format!("{scheme}://{host}{port}/")))
    }

    proptest! {
        #[test]
        fn origins_are_equal_as_those_of_parsed_urls_are(one in any_url(), other in any_url()) {
            prop_assert_eq!(Origin::of(&one).unwrap().is_of(&other), one.origin() == other.origin());
        }
    }
}
