//! Settings of the service, from environment variables.

use std::{env, error::Error, net::SocketAddr, num::NonZeroU32, str::FromStr};

use osdatahub_auth::FileCredentials;

const KEY_FILE: &str = "OS_PROJECT_API_KEY_FILE";
const SECRET_FILE: &str = "OS_PROJECT_API_SECRET_FILE";

/// Settings of the service.
#[derive(Debug)]
pub struct Settings {
    /// Files of the project's key and secret, such as mounted secrets. `None` for a fake Data Hub.
    pub credentials: Option<FileCredentials>,
    /// Transactions a minute that this process may spend, for each API.
    pub per_minute: NonZeroU32,
    /// Address to listen on.
    pub listen: SocketAddr,
}

impl Settings {
    /// Reads the settings from the variables that `main.rs` names.
    ///
    /// # Errors
    ///
    /// If one is not valid, or only one of the two files is set. The message names the variable.
    pub fn from_env() -> Result<Self, Box<dyn Error>> {
        let credentials = match (env::var_os(KEY_FILE), env::var_os(SECRET_FILE)) {
            (Some(key), Some(secret)) => Some(FileCredentials::new(key, secret)),
            (None, None) => None,
            (Some(_), None) => return Err(format!("{KEY_FILE} is set, but {SECRET_FILE} is not").into()),
            (None, Some(_)) => return Err(format!("{SECRET_FILE} is set, but {KEY_FILE} is not").into()),
        };
        Ok(Self {
            credentials,
            per_minute: read("OS_TRANSACTIONS_PER_MINUTE", "50", "a whole number above 0")?,
            listen: read("LISTEN", "127.0.0.1:3000", "an address such as 0.0.0.0:3000")?,
        })
    }
}

fn read<T: FromStr>(name: &str, default: &str, what: &str) -> Result<T, String> {
    let value = env::var_os(name).unwrap_or_else(|| default.into());
    let parsed = value.to_str().and_then(|value| value.parse().ok());
    parsed.ok_or_else(|| format!("{name} is {}, but it must be {what}", value.display()))
}
