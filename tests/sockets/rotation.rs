//! Rotation of the key and the secret while a service runs. Over real sockets and with real files, in real time.

use std::{path::PathBuf, time::Duration};

use osdatahub_auth::{
    Error, ErrorKind, FakeAnswer, FakeDataHub, FileCredentials, ProjectCredentials, TokenEndpoint, TokenManager,
    TokenSource, TokenState,
};
use tokio::time::sleep;

/// Key and secret files in a temporary directory, which is deleted on drop.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("osdatahub-auth-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    fn write(&self, key: &str, secret: &str) {
        std::fs::write(self.dir.join("key"), key).unwrap();
        std::fs::write(self.dir.join("secret"), secret).unwrap();
    }

    /// A manager whose tokens live for 40 s and are due for renewal after 1 s, so that the old token stays usable for
    /// long.
    fn manager(&self, hub: &FakeDataHub) -> TokenManager {
        hub.set_lifetime(Duration::from_secs(40));
        let files = FileCredentials::new(self.dir.join("key"), self.dir.join("secret"));
        let endpoint = TokenEndpoint::builder(files)
            .token_url(hub.token_url())
            .build()
            .unwrap();
        TokenManager::builder(endpoint)
            .refresh_at(0.025..=0.025)
            .build()
            .unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Waits for the background refresh to fail, and returns the error in the status.
async fn refresh_failure(tokens: &TokenManager) -> Error {
    for _ in 0..1_000 {
        if let Some(error) = tokens.status().last_error {
            return error;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the refresh did not fail within 10 s");
}

#[tokio::test]
async fn a_new_key_and_secret_are_picked_up_without_a_restart() {
    let hub = FakeDataHub::start().await.unwrap();
    let files = Files::new("rotated");
    hub.set_credentials("key", "secret");
    files.write("key", "secret");
    let tokens = files.manager(&hub);
    let first = tokens.token().await.unwrap();

    hub.set_credentials("new-key", "new-secret");
    sleep(Duration::from_millis(1_100)).await;
    tokens.token().await.unwrap();
    assert_eq!(refresh_failure(&tokens).await.kind(), ErrorKind::CredentialsRejected);

    files.write("new-key\n", "new-secret\n");
    for _ in 0..70 {
        let token = tokens
            .token()
            .await
            .expect("the old token should be usable until the new one arrives");
        if token.expose_secret() != first.expose_secret() {
            assert_eq!(tokens.status().consecutive_failures, 0);
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the new key and secret were not picked up within 7 s");
}

#[tokio::test]
async fn a_missing_or_half_written_file_leaves_the_token_in_use_and_says_what_is_wrong() {
    let hub = FakeDataHub::start().await.unwrap();
    let files = Files::new("half-written");
    hub.set_credentials("canary-key", "canary-secret");
    files.write("canary-key", "canary-secret");
    let tokens = files.manager(&hub);
    let first = tokens.token().await.unwrap();

    std::fs::remove_file(files.dir.join("secret")).unwrap();
    sleep(Duration::from_millis(1_100)).await;
    let current = tokens.token().await.unwrap();
    assert_eq!(current.expose_secret(), first.expose_secret());
    let error = refresh_failure(&tokens).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let secret_file = files.dir.join("secret").display().to_string();
    assert!(
        format!("{error:#}").contains(&secret_file),
        "the status should name the missing file: {error:#}"
    );
    assert_eq!(tokens.status().state, TokenState::Stale);
    assert_eq!(hub.token_posts(), 1, "no request should be sent without a secret");

    // Without a token, the caller gets an error that says which of the two files is empty.
    files.write("canary-key", "");
    let error = files.manager(&hub).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let shown = error.to_string();
    assert!(
        shown.contains("Project API Secret") && shown.contains("is empty"),
        "{shown}"
    );
    assert!(!shown.contains("canary-key"), "{shown}");
}

#[tokio::test]
async fn a_rejection_asks_whether_key_and_secret_are_swapped_if_their_lengths_are() {
    let hub = FakeDataHub::start().await.unwrap();
    let (long, short) = ("k".repeat(32), "s".repeat(16));
    let rejection = async |key: &str, secret: &str| -> Error {
        let credentials = ProjectCredentials::new(key, secret).unwrap();
        let endpoint = TokenEndpoint::builder(credentials).token_url(hub.token_url());
        let error = endpoint.build().unwrap().fetch(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CredentialsRejected);
        error
    };
    let swapped = rejection(&short, &long).await.to_string();
    assert!(
        swapped.contains("401") && swapped.contains("are they swapped?"),
        "{swapped}"
    );
    for (key, secret) in [
        (&*long, &*short),
        (&*short, &*short),
        (&*long, &*long),
        ("key", "secret"),
    ] {
        let other = rejection(key, secret).await.to_string();
        assert!(!other.contains("swapped"), "{other}");
    }
    let invalid_client = r#"{"ErrorCode":"invalid_client"}"#;
    hub.fail(FakeAnswer::new(400, invalid_client).with_header("Retry-After", "7"));
    let swapped = rejection(&short, &long).await;
    assert!(swapped.to_string().contains("are they swapped?"), "{swapped}");
    assert_eq!(swapped.retry_after(), Some(Duration::from_secs(7)));
}
