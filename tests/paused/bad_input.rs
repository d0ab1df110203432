//! Validation of settings. An error names the setting that is invalid, and never quotes a value that may be secret.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use async_trait::async_trait;
use osdatahub_auth::{
    AccessToken, BearerAuth, CredentialsProvider, Error, ErrorKind, FileCredentials, ProjectCredentials, SharedSource,
    SharedSourceBuilder, TokenEndpoint, TokenManager, TokenSource,
};

fn credentials() -> ProjectCredentials {
    ProjectCredentials::new("key", "secret").unwrap()
}

struct FailingSource;

#[async_trait]
impl TokenSource for FailingSource {
    async fn fetch(&self, _replaces: Option<&AccessToken>) -> Result<AccessToken, Error> {
        Err(Error::new(ErrorKind::RequestRejected, "scripted"))
    }
}

/// Asserts that the error is permanent and of the kind `Configuration`. It must name the setting, and not quote the
/// secret.
#[track_caller]
fn assert_rejected<T: std::fmt::Debug>(outcome: Result<T, Error>, setting: &str, secret: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains(setting), "{error:?} should name {setting}");
    assert!(!error.is_transient());
    if !secret.is_empty() {
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

#[test]
fn a_key_or_secret_that_cannot_be_sent_is_refused() {
    let new = |key: &str, secret: &str| ProjectCredentials::new(key, secret);
    assert_rejected(new("", "secret"), "Project API Key", "secret");
    assert_rejected(new("key", ""), "Project API Secret", "");
    assert_rejected(new("canary:rest", "secret"), "Project API Key", "canary");
    assert_rejected(new("canary\n", "secret"), "Project API Key", "canary");
    assert_rejected(new("key", "canary\r\n"), "Project API Secret", "canary");
    assert_rejected(new("key", "canary\0"), "Project API Secret", "canary");
    assert_rejected(new("key", "canary\u{85}"), "Project API Secret", "canary");
    assert!(new("key", "a:secret may have colons").is_ok());
}

#[test]
fn a_key_or_secret_in_quotes_or_with_white_space_or_invisible_characters_is_refused() {
    for (value, how) in [
        ("\"canary\"", "quotation mark"),
        ("'canary'", "quotation mark"),
        ("`canary`", "quotation mark"),
        ("\u{201c}canary\u{201d}", "quotation mark"),
        ("\"canary", "quotation mark"),
        ("canary'", "quotation mark"),
        ("\"", "quotation mark"),
        (" canary", "white space"),
        ("canary ", "white space"),
        ("\u{a0}canary", "white space"),
        ("canary\u{3000}", "white space"),
        (" ", "white space"),
        ("\u{200b}canary", "invisible"),
        ("canary\u{feff}", "invisible"),
        ("can\u{2060}ary", "invisible"),
        ("can\u{ad}ary", "invisible"),
        ("\u{200d}", "invisible"),
    ] {
        for outcome in [
            ProjectCredentials::new(value, "secret"),
            ProjectCredentials::new("key", value),
        ] {
            assert_rejected(outcome, how, "canary");
        }
        assert_rejected(ProjectCredentials::new(value, "secret"), "Project API Key", "canary");
        assert_rejected(ProjectCredentials::new("key", value), "Project API Secret", "canary");
    }
    assert!(ProjectCredentials::new("k'e\"y", "inner white space, and = signs==").is_ok());
}

#[test]
fn a_token_url_that_would_give_the_secret_away_is_refused() {
    for (url, secret) in [
        ("http://api.os.uk/oauth2/token/v1", ""),
        ("http://10.0.0.1/token", ""),
        ("http://localhost.evil.example/token", ""),
        ("ftp://api.os.uk/", ""),
        ("file:///etc/passwd", ""),
        ("data:text/plain,x", ""),
        ("https://user:canary@api.os.uk/", "canary"),
        ("https://canary@api.os.uk/", "canary"),
        ("http://:canary@127.0.0.1/", "canary"),
    ] {
        let endpoint = TokenEndpoint::builder(credentials()).token_url(url.parse().unwrap());
        assert_rejected(endpoint.build(), "token_url", secret);
    }
    for url in [
        "http://127.0.0.1:1/t",
        "http://[::1]/t",
        "http://localhost/t",
        "https://x.example",
    ] {
        let endpoint = TokenEndpoint::builder(credentials()).token_url(url.parse().unwrap());
        assert!(endpoint.build().is_ok(), "{url}");
    }
}

#[test]
fn a_request_timeout_of_zero_or_beyond_30_s_is_refused() {
    for limit in [Duration::ZERO, Duration::from_millis(30_001), Duration::MAX] {
        let endpoint = TokenEndpoint::builder(credentials()).request_timeout(limit);
        assert_rejected(endpoint.build(), "request_timeout", "");
    }
    let maximum = TokenEndpoint::builder(credentials()).request_timeout(Duration::from_secs(30));
    assert!(maximum.build().is_ok());
}

#[test]
fn a_refresh_at_outside_its_bounds_or_backwards_is_refused() {
    let invalid: [RangeInclusive<f64>; 8] = [
        0.0..=0.5,
        -0.1..=0.5,
        0.5..=0.91,
        0.5..=1.0,
        0.8..=0.7,
        f64::NAN..=0.5,
        0.5..=f64::NAN,
        0.5..=f64::INFINITY,
    ];
    for share in invalid {
        assert_rejected(
            TokenManager::builder(FailingSource).refresh_at(share).build(),
            "refresh_at",
            "",
        );
    }
    for share in [0.5..=0.5, 0.001..=0.9] {
        assert!(TokenManager::builder(FailingSource).refresh_at(share).build().is_ok());
    }
}

#[test]
fn an_acquire_timeout_of_zero_is_refused_and_an_endless_one_is_accepted() {
    let build_with = |limit| TokenManager::builder(FailingSource).acquire_timeout(limit).build();
    assert_rejected(build_with(Duration::ZERO), "acquire_timeout", "");
    let tokens = build_with(Duration::MAX).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(tokens.token()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequestRejected);
}

#[test]
fn an_origin_that_is_invalid_or_unsafe_is_refused() {
    for (origin, secret) in [
        ("http://gateway.example", ""),
        ("https://gateway.example/canary", "canary"),
        ("https://gateway.example/?canary", "canary"),
        ("https://user:canary@gateway.example/", "canary"),
        ("data:text/plain,canary", "canary"),
    ] {
        let tokens = TokenManager::builder(FailingSource).build().unwrap();
        let auth = BearerAuth::new(tokens).with_origin(origin.parse().unwrap());
        assert_rejected(auth, "with_origin", secret);
    }
}

#[tokio::test]
async fn credential_files_that_cannot_be_used_are_named_and_not_quoted() {
    let folder = std::env::temp_dir().join(format!("osdatahub-auth-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let good = file("good", b"  canary\n");
    let read = |key: &PathBuf, secret: &PathBuf| {
        let files = FileCredentials::new(key, secret);
        async move { files.credentials().await }
    };
    assert!(read(&good, &good).await.is_ok());
    let with_bom = file("bom", "\u{feff}key\r\n".as_bytes());
    assert!(read(&with_bom, &good).await.is_ok());
    #[cfg(unix)]
    assert_rejected(read(&PathBuf::from("/dev/null"), &good).await, "regular", "");
    let missing = folder.join("missing");
    assert_rejected(read(&missing, &good).await, "missing", "");
    assert_rejected(read(&good, &missing).await, "missing", "canary");
    assert_rejected(read(&good, &folder).await, &folder.display().to_string(), "canary");
    assert_rejected(read(&file("empty", b""), &good).await, "empty", "");
    assert_rejected(read(&good, &file("blank", b" \n")).await, "blank", "");
    assert_rejected(
        read(&good, &file("latin1", b"caf\xe9-canary")).await,
        "latin1",
        "canary",
    );
    assert_rejected(read(&good, &file("long", &[b'x'; 5_000])).await, "long", "xxx");
    for (name, content, how) in [
        ("two-lines", "canary\nmore", "control character"),
        ("quoted", " \"canary\"\n", "quotation mark"),
        ("zero-width", "can\u{200b}ary", "invisible"),
        ("colon", "canary:rest", "colon"),
        ("assignment", "OS_PROJECT_API_KEY=canary\n", "NAME=value"),
        ("spaced", "os_key = canary", "NAME=value"),
        ("quoted-value", "KEY='canary'", "NAME=value"),
        ("empty-assignment", "OS_PROJECT_API_KEY=", "NAME=value"),
        ("dashed", "os-key=canary", "NAME=value"),
        ("export-spaced", "export  KEY=canary", "NAME=value"),
        ("exported", "export KEY=canary\nexport SECRET=canary\n", "NAME=value"),
    ] {
        let path = file(name, content.as_bytes());
        assert_rejected(read(&path, &good).await, how, "canary");
        assert_rejected(read(&path, &good).await, &path.display().to_string(), "canary");
        assert_rejected(read(&path, &good).await, "Project API Key", "canary");
    }
    for (name, content) in [
        ("padded", "Y2FuYXJ5LWE=\n"),
        ("padded-twice", "Y2FuYXJ5LWE=="),
        ("zero-widths-outside", "\u{200b} \u{feff}canary\u{200b}\n"),
        ("equals-inside", "1=2"),
    ] {
        assert!(read(&file(name, content.as_bytes()), &good).await.is_ok(), "{name}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn nothing_that_holds_a_secret_shows_it() {
    #[track_caller]
    fn assert_redacted(value: &dyn std::fmt::Debug, expected: &str) {
        let shown = format!("{value:?} {value:#?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains(expected), "{shown} should contain {expected}");
    }
    let secret = ProjectCredentials::new("canary-key", "canary-secret").unwrap();
    assert_redacted(&secret, "ProjectCredentials");
    let gateway = "https://gateway.example/token?key=canary-query".parse().unwrap();
    let endpoint = TokenEndpoint::builder(secret).token_url(gateway);
    assert_redacted(&endpoint, "request_timeout: 5s");
    let endpoint = endpoint.build().unwrap();
    assert_redacted(&endpoint, "https://gateway.example/token");
    let builder = TokenManager::builder(endpoint);
    assert_redacted(&builder, "refresh_at: 0.75..=0.85");
    let tokens = builder.build().unwrap();
    assert_redacted(&tokens, "Missing");
    assert_redacted(&tokens.status(), "Missing");
    assert_redacted(&BearerAuth::new(tokens), "BearerAuth");
}

#[test]
fn a_redis_url_prefix_or_time_limit_that_cannot_be_meant_is_refused() {
    let source = |redis_url: &str| {
        let endpoint = TokenEndpoint::builder(credentials()).build().unwrap();
        SharedSource::builder(endpoint, redis_url)
    };
    let (unreadable, tls, fragment) = (
        "the redis_url cannot be parsed",
        "a TLS feature",
        "percent-encoded, as %23",
    );
    for (url, advice, secret) in [
        ("", unreadable, ""),
        ("canary", unreadable, "canary"),
        ("redis://:canary@", unreadable, "canary"),
        ("redis://:canary@host:port", unreadable, "canary"),
        ("redis://:canary@host/database", unreadable, "canary"),
        ("https://:canary@host", unreadable, "canary"),
        ("rediss://:canary@host:port", tls, "canary"),
        ("valkeys://:canary@host:port#insecure", tls, "canary"),
        ("rediss://:can#ary@host", fragment, "ary@host"),
        ("redis://:can#ary@host", fragment, "ary@host"),
    ] {
        assert_rejected(source(url).build(), advice, secret);
    }
    let build_with = |set: fn(SharedSourceBuilder) -> SharedSourceBuilder| set(source("redis://host")).build();
    assert_rejected(build_with(|source| source.prefix("")), "prefix", "");
    assert_rejected(build_with(|source| source.time_limit(Duration::ZERO)), "time_limit", "");
    assert_rejected(
        build_with(|source| source.time_limit(Duration::from_secs(6))),
        "time_limit",
        "",
    );
    let slow_endpoint = TokenEndpoint::builder(credentials()).request_timeout(Duration::from_secs(30));
    let shared = SharedSource::builder(slow_endpoint.build().unwrap(), "redis://host").build();
    assert_rejected(shared, "request_timeout", "");
    assert!(build_with(|source| source.prefix("p").time_limit(Duration::from_secs(5))).is_ok());
}
