//! The seal of shared tokens: an opaque name and an encrypted entry. No I/O.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, Generate, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use secrecy::{ExposeSecret, zeroize::Zeroizing};
use sha2::Sha256;
use url::Url;

use crate::{credentials::ProjectCredentials, token::AccessToken};

/// The number is the version of the entry's layout. Versions with different layouts use different names, so they share
/// nothing and do not disturb each other.
const SALT: &[u8] = b"osdatahub-auth shared token 1";

/// At the start of the entry, before the ciphertext.
const NONCE_BYTES: usize = 24;

/// The plain text is two numbers, both times in milliseconds, and then the token.
const NUMBER_BYTES: usize = 8;

/// The cipher and name of one project's tokens for one token endpoint. Both are derived from the Project API Secret, so
/// that finding, reading or making an entry needs the secret. After a rotation the old entries are not found.
pub(super) struct Seal {
    name: String,
    cipher: XChaCha20Poly1305,
}

/// The content of an entry.
pub(super) struct Unsealed {
    pub(super) token: Zeroizing<String>,
    /// The remaining lifetime of the token when it was sealed.
    pub(super) lifetime: Duration,
    /// The expiry by Redis's clock, as the time since 1970. Restoring an old entry does not extend its life.
    pub(super) expires_at: Duration,
}

impl Seal {
    /// Derives key and name from the secret, with HKDF and SHA-256 (RFC 5869). The expansion is an HMAC of key and URL,
    /// which distinguish two projects.
    pub(super) fn new(prefix: &str, credentials: &ProjectCredentials, token_url: &Url) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(SALT), credentials.secret.expose_secret().as_bytes());
        // Neither a key nor a URL can contain a NUL, so different pairs stay different.
        let project = Zeroizing::new([credentials.key.expose_secret(), token_url.as_str()].join("\0"));
        let name = derive(&hkdf, &[b"name\0", project.as_bytes()]);
        let key = derive(&hkdf, &[b"key\0", project.as_bytes()]);
        Self {
            name: format!("{prefix}:{{{}}}", URL_SAFE_NO_PAD.encode(*name)),
            cipher: XChaCha20Poly1305::new((&*key).into()),
        }
    }

    /// The name of the entry. The braces are a hash tag: Redis Cluster keeps all keys with it in one slot.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes an entry with the token and its remaining lifetime. `None` if the system has no random numbers.
    pub(super) fn seal(&self, token: &AccessToken, expires_at: Duration) -> Option<Vec<u8>> {
        let numbers = [token.remaining(), expires_at]
            .map(|time| millis(time).to_be_bytes())
            .concat();
        let plain = Zeroizing::new([&numbers[..], token.expose_secret().as_bytes()].concat());
        let nonce = XNonce::try_generate().ok()?;
        let sealed = self.cipher.encrypt(&nonce, self.payload(&plain)).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// Opens an entry. `None` unless [`seal`](Self::seal) made it under this name.
    pub(super) fn open(&self, entry: &[u8]) -> Option<Unsealed> {
        let (nonce, sealed) = entry.split_first_chunk::<NONCE_BYTES>()?;
        let plain = self.cipher.decrypt(nonce.into(), self.payload(sealed)).ok()?;
        let plain = Zeroizing::new(plain);
        let time = |number: &[u8; NUMBER_BYTES]| Duration::from_millis(u64::from_be_bytes(*number));
        let (lifetime, rest) = plain.split_first_chunk()?;
        let (expires_at, token) = rest.split_first_chunk()?;
        Some(Unsealed {
            token: Zeroizing::new(str::from_utf8(token).ok()?.to_owned()),
            lifetime: time(lifetime),
            expires_at: time(expires_at),
        })
    }

    /// Authenticates the name as well, so that an entry does not open under another name.
    fn payload<'a>(&'a self, msg: &'a [u8]) -> Payload<'a, 'a> {
        Payload {
            msg,
            aad: self.name.as_bytes(),
        }
    }
}

/// A time as it is stored.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::expect_used, reason = "HKDF gives up to 8,160 bytes, and this asks for 32")]
fn derive(hkdf: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    hkdf.expand_multi_info(info, &mut *derived)
        .expect("32 bytes are not too many");
    derived
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    const LIFE: Duration = Duration::from_secs(299);
    const EXPIRES_AT: Duration = Duration::from_millis(1_634_663_681_476);

    fn seal_of(prefix: &str, key: &str, secret: &str, token_url: &str) -> Seal {
        let credentials = ProjectCredentials::new(key, secret).unwrap();
        Seal::new(prefix, &credentials, &token_url.parse().unwrap())
    }

    fn seal() -> Seal {
        seal_of("prefix", "key", "secret", "https://api.os.uk/oauth2/token/v1")
    }

    fn entry(token: &str) -> Vec<u8> {
        seal()
            .seal(&AccessToken::new(token, LIFE).unwrap(), EXPIRES_AT)
            .unwrap()
    }

    #[test]
    fn what_is_sealed_can_be_read_by_the_same_project_alone() {
        let entry = entry("canary");
        let unsealed = seal().open(&entry).unwrap();
        assert_eq!((unsealed.token.as_str(), unsealed.expires_at), ("canary", EXPIRES_AT));
        assert!(unsealed.lifetime <= LIFE && unsealed.lifetime + Duration::from_secs(5) > LIFE);
        for other in [
            seal_of("other", "key", "secret", "https://api.os.uk/oauth2/token/v1"),
            seal_of("prefix", "other", "secret", "https://api.os.uk/oauth2/token/v1"),
            seal_of("prefix", "key", "other", "https://api.os.uk/oauth2/token/v1"),
            seal_of("prefix", "key", "secret", "https://gateway.example/oauth2/token/v1"),
        ] {
            assert_ne!(other.name(), seal().name());
            assert!(other.open(&entry).is_none());
        }
    }

    #[test]
    fn an_entry_under_another_name_does_not_open() {
        let entry = entry("canary");
        let moved = Seal {
            name: "another".to_owned(),
            ..seal()
        };
        assert!(moved.open(&entry).is_none());
    }

    #[test]
    fn neither_name_nor_entry_shows_what_it_is_about() {
        let seal = seal_of("prefix", "CanaryKey", "CanarySecret", "https://canary.example/");
        let entry = seal
            .seal(&AccessToken::new("CanaryToken", LIFE).unwrap(), EXPIRES_AT)
            .unwrap();
        let shown = format!("{} {}", seal.name(), String::from_utf8_lossy(&entry)).to_lowercase();
        assert!(shown.starts_with("prefix:{") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn what_this_version_once_wrote_can_be_read() {
        // If this changes, the number in SALT must change. Otherwise versions would treat each other's entries as
        // damaged.
        assert_eq!(seal().name(), "prefix:{p400oY359kZWyqkbPKdhd8m2usys_9UnR3k18tB2VqI}");
        let unsealed = seal().open(&STANDARD.decode("qYZ0Qounbcz5G3nmV8TQ+H6CkX0Q/MeY7k1Q4pPxiEVDuaTwjMqWGvZsIxPKLOTiyxRFu8A+EIRj4qaRZHjylsUhlNiT2MgIE6dDq8eSpglF4hAj").unwrap()).unwrap();
        assert_eq!(
            (unsealed.token.as_str(), unsealed.expires_at, unsealed.lifetime),
            (
                "ZclClFcksJlZ19vnJOt09Yj3xme0",
                EXPIRES_AT,
                Duration::from_millis(298_999)
            )
        );
    }

    #[test]
    fn the_same_token_is_never_sealed_alike() {
        assert_ne!(entry("t"), entry("t"));
    }

    #[test]
    fn an_entry_that_was_changed_anywhere_is_unreadable() {
        let entry = entry("canary");
        for at in 0..entry.len() {
            let mut changed = entry.clone();
            changed[at] ^= 1;
            assert!(seal().open(&changed).is_none(), "{at}");
            assert!(seal().open(&entry[..at]).is_none(), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(entry: Vec<u8>) {
            prop_assert!(seal().open(&entry).is_none());
        }
    }
}
