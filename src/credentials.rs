//! The Project API Key and Secret, and the providers that supply them.

use std::path::{Path, PathBuf};
use std::{env, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::{fs, io::AsyncReadExt};

use crate::error::Error;

const KEY_VARIABLE: &str = "OS_PROJECT_API_KEY";
const SECRET_VARIABLE: &str = "OS_PROJECT_API_SECRET";

/// OS's keys have 32 characters and its secrets 16. A larger file is the wrong file.
const MAX_FILE_BYTES: u64 = 4096;

/// Some editors write it at the start of a file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A provider of the Project API Key and Secret, asked once for every refresh.
///
/// Implement it, with the crate `async-trait`, to read them from a secret store. The credentials are used for one
/// request and then dropped, so the next refresh picks up a rotated secret without a restart.
///
/// ```
/// use osdatahub_auth::{CredentialsProvider, Error, ErrorKind, ProjectCredentials};
///
/// struct Vault;
///
/// # impl Vault { async fn read(&self, _: &str) -> Result<String, std::io::Error> { Ok("x".into()) } }
/// #[async_trait::async_trait]
/// impl CredentialsProvider for Vault {
///     async fn credentials(&self) -> Result<ProjectCredentials, Error> {
///         let sealed = |error| Error::new(ErrorKind::Unavailable, error);
///         let key = self.read("os/key").await.map_err(sealed)?;
///         let secret = self.read("os/secret").await.map_err(sealed)?;
///         ProjectCredentials::new(key, secret)
///     }
/// }
/// ```
#[async_trait]
pub trait CredentialsProvider: Send + Sync + 'static {
    /// Returns the key and secret for the refresh that is about to start.
    ///
    /// # Errors
    /// The reason why there are none. Its [kind](crate::ErrorKind) decides how soon the provider is asked again.
    async fn credentials(&self) -> Result<ProjectCredentials, Error>;
}

#[async_trait]
impl<T: CredentialsProvider + ?Sized> CredentialsProvider for Arc<T> {
    async fn credentials(&self) -> Result<ProjectCredentials, Error> {
        (**self).credentials().await
    }
}

/// A Project API Key and Project API Secret, as the OS Data Hub shows them for a project.
///
/// It is a [`CredentialsProvider`] that always returns itself. `Debug` shows neither key nor secret.
#[derive(Debug, Clone)]
pub struct ProjectCredentials {
    pub(crate) key: SecretString,
    pub(crate) secret: SecretString,
}

impl ProjectCredentials {
    /// Takes a key and a secret unchanged, without trimming.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if either is empty or contains a control character, such as
    /// the line break at the end of a file. Also if the key contains a `:`, which HTTP Basic cannot carry (RFC 7617,
    /// section 2).
    pub fn new(key: impl Into<String>, secret: impl Into<String>) -> Result<Self, Error> {
        let (key, secret) = (SecretString::from(key.into()), SecretString::from(secret.into()));
        check("the Project API Key", &key)?;
        check("the Project API Secret", &secret)?;
        Error::ensure(
            !key.expose_secret().contains(':'),
            "the Project API Key contains a colon: is it the key alone, without the secret?",
        )?;
        Ok(Self { key, secret })
    }

    /// Reads the environment variables `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET`, once.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if one is missing, not Unicode, or refused by
    /// [`new`](Self::new).
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| env::var(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Result<String, env::VarError>) -> Result<Self, Error> {
        let unusable = |name, how| Error::configuration(format!("the environment variable {name} {how}"));
        let read = |name| match variable(name) {
            Ok(value) if !value.is_empty() => Ok(value),
            Ok(_) => Err(unusable(name, "is empty")),
            Err(env::VarError::NotPresent) => Err(unusable(name, "is not set")),
            Err(env::VarError::NotUnicode(_)) => Err(unusable(name, "is not Unicode")),
        };
        Self::new(read(KEY_VARIABLE)?, read(SECRET_VARIABLE)?)
    }

    /// The value of `Authorization: Basic …`: key and secret joined by a colon and base-64 encoded (RFC 7617).
    pub(crate) fn basic_auth(&self) -> Result<HeaderValue, Error> {
        let pair = SecretString::from(format!("{}:{}", self.key.expose_secret(), self.secret.expose_secret()));
        let encoded = SecretString::from(format!("Basic {}", STANDARD.encode(pair.expose_secret())));
        let mut value = HeaderValue::from_str(encoded.expose_secret())
            .map_err(|_| Error::configuration("the Project API Key and Secret cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn check(what: &str, value: &SecretString) -> Result<(), Error> {
    let value = value.expose_secret();
    Error::ensure(!value.is_empty(), format!("{what} is empty"))?;
    Error::ensure(
        !value.chars().any(char::is_control),
        format!("{what} contains a control character, such as a line break"),
    )
}

#[async_trait]
impl CredentialsProvider for ProjectCredentials {
    async fn credentials(&self) -> Result<ProjectCredentials, Error> {
        Ok(self.clone())
    }
}

/// A [`CredentialsProvider`] that reads key and secret from two files, such as mounted secrets, for every refresh.
///
/// Rotation needs no restart, because the next refresh reads the files again. White space around the value is ignored,
/// since most tools end a file with a line break. A file that is missing, empty or half-written fails that refresh
/// alone. The current token is still served, and the files are read again soon.
#[derive(Debug, Clone)]
pub struct FileCredentials {
    key_path: PathBuf,
    secret_path: PathBuf,
}

impl FileCredentials {
    /// Remembers the two paths. Reads nothing yet.
    pub fn new(key_path: impl Into<PathBuf>, secret_path: impl Into<PathBuf>) -> Self {
        Self {
            key_path: key_path.into(),
            secret_path: secret_path.into(),
        }
    }
}

#[async_trait]
impl CredentialsProvider for FileCredentials {
    async fn credentials(&self) -> Result<ProjectCredentials, Error> {
        let key = read(&self.key_path, "Key").await?;
        let secret = read(&self.secret_path, "Secret").await?;
        ProjectCredentials::new(key.expose_secret(), secret.expose_secret())
    }
}

async fn read(path: &Path, what: &str) -> Result<SecretString, Error> {
    let unusable = |how: &str| {
        let path = path.display();
        Error::configuration(format!("the file of the Project API {what}, {path}, {how}"))
    };
    let unreadable = |error| unusable("cannot be read").caused_by(error);
    // Opening a pipe would wait for its other end, and block a thread of the runtime for good.
    if !fs::metadata(path).await.map_err(unreadable)?.is_file() {
        return Err(unusable("is not a regular file"));
    }
    let file = fs::File::open(path).await.map_err(unreadable)?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).await;
    let text = SecretString::from(text);
    let value = text.expose_secret().trim_start_matches(BYTE_ORDER_MARK).trim();
    match read {
        Err(error) => Err(unreadable(error)),
        Ok(length) if length as u64 > MAX_FILE_BYTES => Err(unusable("is far too long for it")),
        Ok(_) if value.is_empty() => Err(unusable("is empty")),
        Ok(_) => Ok(SecretString::from(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn basic_auth_is_key_and_secret_as_they_are() {
        let credentials = ProjectCredentials::new("key", "s:cret").unwrap();
        let header = credentials.basic_auth().unwrap();
        assert_eq!(header, "Basic a2V5OnM6Y3JldA==");
        assert!(header.is_sensitive());
    }

    #[test]
    fn a_missing_or_empty_variable_is_named() {
        let full = |_: &str| Ok("value".to_owned());
        assert!(ProjectCredentials::from_variables(full).is_ok());
        for broken in [KEY_VARIABLE, SECRET_VARIABLE] {
            for (value, how) in [
                (Err(env::VarError::NotPresent), "is not set"),
                (Err(env::VarError::NotUnicode("x".into())), "is not Unicode"),
                (Ok(String::new()), "is empty"),
            ] {
                let error =
                    ProjectCredentials::from_variables(|name| if name == broken { value.clone() } else { full(name) })
                        .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Configuration);
                let shown = error.to_string();
                assert!(shown.contains(broken) && shown.contains(how), "{shown}");
            }
        }
    }
}
