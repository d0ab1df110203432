//! The Project API Key and Secret, and the providers that supply them.

use std::path::{Path, PathBuf};
use std::{env, fs, io, io::Read, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, encoded_len, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use secrecy::zeroize::{Zeroize, Zeroizing};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use crate::error::{Error, ErrorKind};

const KEY_VARIABLE: &str = "OS_PROJECT_API_KEY";
const SECRET_VARIABLE: &str = "OS_PROJECT_API_SECRET";

/// The lengths of OS's keys and secrets. Not enforced, because OS does not promise them.
const OS_KEY_LENGTH: usize = 32;
const OS_SECRET_LENGTH: usize = 16;

/// Far above the lengths of a key or a secret. A larger file is the wrong file.
const MAX_FILE_BYTES: usize = 4096;

/// Far longer than a read should take. Beyond it the file system, such as a network mount, is most likely hanging.
const READ_LIMIT: Duration = Duration::from_secs(5);

const BASIC: &[u8] = b"Basic ";

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
    /// [`Configuration`](crate::ErrorKind::Configuration) if either is empty, begins or ends with a quotation mark or
    /// white space, or contains a control character or an invisible one, such as a zero-width space. Such a value is
    /// a slip in a settings file, which OS would answer with a 401. Also if the key contains a `:`, which HTTP Basic
    /// cannot carry (RFC 7617, section 2).
    pub fn new(key: impl Into<String>, secret: impl Into<String>) -> Result<Self, Error> {
        let (key, secret) = (wiped(key.into()), wiped(secret.into()));
        Part::Key.check(&key, || format!("the {}", Part::Key.name()))?;
        Part::Secret.check(&secret, || format!("the {}", Part::Secret.name()))?;
        Ok(Self { key, secret })
    }

    /// Reads the environment variables `OS_PROJECT_API_KEY` and `OS_PROJECT_API_SECRET`, once.
    ///
    /// # Errors
    /// [`Configuration`](crate::ErrorKind::Configuration) if one is missing, not Unicode, or refused as by
    /// [`new`](Self::new). Quotation marks are a common cause: `docker run --env-file` keeps them. The message names
    /// the variable, or both.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| env::var(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Result<String, env::VarError>) -> Result<Self, Error> {
        let read = |part: Part| {
            let name = || format!("the environment variable {}", part.variable());
            let value = variable(part.variable()).map_err(|error| {
                let how = match error {
                    env::VarError::NotPresent => "is not set",
                    env::VarError::NotUnicode(_) => "is not Unicode",
                };
                Error::configuration(format!("{} {how}", name()))
            })?;
            let value = wiped(value);
            part.check(&value, name)?;
            Ok(value)
        };
        match (read(Part::Key), read(Part::Secret)) {
            (Ok(key), Ok(secret)) => Ok(Self { key, secret }),
            (Err(key), Err(secret)) => Err(Error::configuration(format!("{key}; {secret}"))),
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        }
    }

    /// The value of `Authorization: Basic …`: key and secret joined by a colon and base-64 encoded (RFC 7617). Its
    /// buffer is wiped when the last clone is dropped.
    pub(crate) fn basic_auth(&self) -> Result<HeaderValue, Error> {
        let impossible = || Error::configuration("the Project API Key and Secret cannot be sent in a header");
        let (key, secret) = (self.key.expose_secret(), self.secret.expose_secret());
        // Both buffers have their full size from the start. One that grows leaves a copy behind.
        let mut pair = Zeroizing::new(String::with_capacity(key.len() + 1 + secret.len()));
        pair.extend([key, ":", secret]);
        let length = encoded_len(pair.len(), true).ok_or_else(impossible)?;
        let mut header = Zeroizing::new(vec![0; BASIC.len() + length]);
        let (scheme, encoded) = header.split_at_mut(BASIC.len());
        scheme.copy_from_slice(BASIC);
        STANDARD
            .encode_slice(pair.as_bytes(), encoded)
            .map_err(|_| impossible())?;
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(header)).map_err(|_| impossible())?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Adds a hint to the error for rejected credentials if their lengths suggest that key and secret are swapped.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let length = |secret: &SecretString| secret.expose_secret().len();
        let swapped = (length(&self.key), length(&self.secret)) == (OS_SECRET_LENGTH, OS_KEY_LENGTH);
        if swapped && error.kind() == ErrorKind::CredentialsRejected {
            error.with_hint("are they swapped? OS's keys have 32 characters, and its secrets 16")
        } else {
            error
        }
    }
}

/// One of the two parts of the credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Secret,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "Project API Key",
            Self::Secret => "Project API Secret",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Key => KEY_VARIABLE,
            Self::Secret => SECRET_VARIABLE,
        }
    }

    /// Refuses a value that OS cannot have issued. The error calls it by the given name.
    fn check(self, value: &SecretString, name: impl FnOnce() -> String) -> Result<(), Error> {
        let value = value.expose_secret();
        let ends_with = |is: fn(char) -> bool| value.starts_with(is) || value.ends_with(is);
        let how = if value.is_empty() {
            "is empty"
        } else if value.contains(char::is_control) {
            "contains a control character, such as a line break"
        } else if value.contains(is_invisible) {
            "contains an invisible character, such as a zero-width space or a byte order mark"
        } else if ends_with(char::is_whitespace) {
            "begins or ends with white space"
        } else if ends_with(is_quotation_mark) {
            "begins or ends with a quotation mark: write the value without quotes"
        } else if self == Self::Key && value.contains(':') {
            "contains a colon, which HTTP Basic cannot send"
        } else {
            return Ok(());
        };
        Err(Error::configuration(format!("{} {how}", name())))
    }
}

/// Copies a string into a secret, and wipes the original. Shrinking its buffer instead could leave a copy behind.
fn wiped(mut text: String) -> SecretString {
    let secret = SecretString::from(text.as_str());
    text.zeroize();
    secret
}

/// Whether a character has no width. Text that was copied from a page or a document may contain some. Unicode counts
/// them neither as white space nor as control characters.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn is_quotation_mark(c: char) -> bool {
    matches!(c, '"' | '\'' | '`' | '\u{2018}'..='\u{201f}' | '«' | '»')
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
/// since most tools end a file with a line break; so are a byte order mark and zero-width characters. What remains must
/// be the value alone, as for [`ProjectCredentials::new`], and not `NAME=value`. A file that is missing, empty or
/// half-written fails that refresh alone. So does a read that takes more than 5 s, and no other starts until it ends.
/// The current token is still served, and the files are read again soon.
#[derive(Debug, Clone)]
pub struct FileCredentials {
    key_path: PathBuf,
    secret_path: PathBuf,
    /// Held during a read. If that hangs, each further read would block one more of the runtime's threads.
    reading: Arc<Mutex<()>>,
}

impl FileCredentials {
    /// Remembers the two paths. Reads nothing yet.
    pub fn new(key_path: impl Into<PathBuf>, secret_path: impl Into<PathBuf>) -> Self {
        Self {
            key_path: key_path.into(),
            secret_path: secret_path.into(),
            reading: Arc::default(),
        }
    }
}

#[async_trait]
impl CredentialsProvider for FileCredentials {
    async fn credentials(&self) -> Result<ProjectCredentials, Error> {
        let (key_path, secret_path) = (self.key_path.clone(), self.secret_path.clone());
        // Not tokio's files, because they read into a buffer that is not wiped.
        let read = move || {
            Ok(ProjectCredentials {
                key: read(&key_path, Part::Key)?,
                secret: read(&secret_path, Part::Secret)?,
            })
        };
        read_alone(Arc::clone(&self.reading), READ_LIMIT, read).await
    }
}

/// Reads files on a thread that may block. While a read hangs, no other starts.
async fn read_alone<T: Send + 'static>(
    reading: Arc<Mutex<()>>,
    limit: Duration,
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let alone = async {
        let reading = reading.lock_owned().await;
        spawn_blocking(move || {
            let _reading = reading;
            read()
        })
        .await
    };
    let (kind, why) = match timeout(limit, alone).await {
        Ok(Ok(result)) => return result,
        Ok(Err(_)) => (
            ErrorKind::Unavailable,
            ": the tokio runtime is shutting down".to_owned(),
        ),
        Err(_) => (
            ErrorKind::Timeout,
            format!(" within {limit:?}: is their file system hanging?"),
        ),
    };
    let message = format!("the files of the Project API Key and Secret were not read{why}");
    Err(Error::with_message(kind, message))
}

fn read(path: &Path, part: Part) -> Result<SecretString, Error> {
    let name = || format!("the file of the {}, {},", part.name(), path.display());
    let unusable = |how: &str| Error::configuration(format!("{} {how}", name()));
    let unreadable = |error: io::Error| unusable("cannot be read").caused_by(error);
    // Opening a pipe would wait for its other end, and block a thread of the runtime for good.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unusable("is not a regular file"));
    }
    let mut file = fs::File::open(path).map_err(unreadable)?;
    // Its full size from the start: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new([0; MAX_FILE_BYTES + 1]);
    let mut length = 0;
    while length < content.len() {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if length > MAX_FILE_BYTES {
        return Err(unusable("is far too long for it"));
    }
    let text = str::from_utf8(&content[..length]).map_err(|_| unusable("is not UTF-8"))?;
    let value = text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
    if is_assignment(value) {
        return Err(unusable("contains NAME=value: write the value alone"));
    }
    let value = SecretString::from(value);
    part.check(&value, name)?;
    Ok(value)
}

/// Whether a file is one of environment variables: `NAME=value`, perhaps after `export`. The padding at the end of a
/// base-64 text is not a value.
fn is_assignment(text: &str) -> bool {
    let exported = text
        .strip_prefix("export")
        .filter(|rest| rest.starts_with(char::is_whitespace));
    let text = exported.map_or(text, str::trim_start);
    text.split_once('=').is_some_and(|(name, value)| {
        let name = name.trim_end();
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let is_padding = matches!(value, "" | "=");
        named && (!is_padding || [KEY_VARIABLE, SECRET_VARIABLE].contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn basic_auth_is_key_and_secret_as_they_are() {
        let credentials = ProjectCredentials::new("key", "s:cret").unwrap();
        let header = credentials.basic_auth().unwrap();
        assert_eq!(header, "Basic a2V5OnM6Y3JldA==");
        assert!(header.is_sensitive());
    }

    #[tokio::test]
    async fn while_a_read_hangs_no_other_starts_and_the_error_says_so() {
        let reading = Arc::default();
        let reads = Arc::new(AtomicUsize::new(0));
        // A read hangs until its sender is dropped.
        let read = |end: mpsc::Receiver<()>| {
            let reads = Arc::clone(&reads);
            let read = move || {
                reads.fetch_add(1, Ordering::Relaxed);
                let _ = end.recv();
                Ok(())
            };
            read_alone(Arc::clone(&reading), Duration::from_millis(300), read)
        };
        let (hanging, first) = mpsc::channel();
        let (_, second) = mpsc::channel();
        for end in [first, second] {
            let error = read(end).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            let shown = error.to_string();
            assert!(shown.contains("within 300ms: is their file system hanging?"), "{shown}");
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        drop(hanging);
        let (_, third) = mpsc::channel();
        assert!(read(third).await.is_ok());
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

    #[test]
    fn a_variable_with_quotes_white_space_or_a_colon_is_named_and_not_quoted() {
        for (variable, value, how) in [
            (KEY_VARIABLE, "\"canary\"", "quotation mark"),
            (KEY_VARIABLE, "canary ", "white space"),
            (KEY_VARIABLE, "canary:rest", "colon"),
            (SECRET_VARIABLE, "'canary'", "quotation mark"),
            (SECRET_VARIABLE, "canary\r", "control character"),
            (SECRET_VARIABLE, "\u{feff}canary", "invisible"),
        ] {
            let read = |name: &str| Ok(if name == variable { value } else { "good" }.to_owned());
            let shown = ProjectCredentials::from_variables(read).unwrap_err().to_string();
            assert!(shown.contains(variable) && shown.contains(how), "{shown}");
            assert!(!shown.contains("canary"), "{shown}");
        }
    }

    #[test]
    fn two_unusable_variables_are_both_named() {
        for value in [Err(env::VarError::NotPresent), Ok("'x'".to_owned())] {
            let error = ProjectCredentials::from_variables(|_| value.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            let shown = error.to_string();
            assert!(
                shown.contains(KEY_VARIABLE) && shown.contains(SECRET_VARIABLE),
                "{shown}"
            );
        }
    }
}
