//! Fetches the key set of `auth.jwks_url`: now and then, and at once when somebody shows a token of an unknown key, but never more often than every few seconds.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::jwt::{self, CheckingKey};

/// The shortest time between two fetches.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a fetch may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest key set that is read, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// When it was last fetched, and by what.
#[derive(Debug, Default)]
pub(super) struct KeySets {
    last: Mutex<Option<Instant>>,
    client: OnceLock<Option<reqwest::Client>>,
}

impl KeySets {
    /// Fetches the keys if the last time is `every` ago.
    pub(super) async fn fetch_when_due(&self, url: &str, every: Duration) -> Option<Vec<CheckingKey>> {
        self.fetch_after(url, every.max(PAUSE)).await
    }

    /// Fetches the keys unless that was just tried.
    pub(super) async fn fetch_unless_just_done(&self, url: &str) -> Option<Vec<CheckingKey>> {
        self.fetch_after(url, PAUSE).await
    }

    async fn fetch_after(&self, url: &str, pause: Duration) -> Option<Vec<CheckingKey>> {
        // Held while it is fetched: whoever comes meanwhile waits for this fetch and does not begin another.
        let mut last = self.last.lock().await;
        if last.is_some_and(|last| last.elapsed() < pause) {
            return None;
        }
        *last = Some(Instant::now());
        match tokio::time::timeout(LIMIT, self.fetch(url)).await {
            Ok(Ok(keys)) => Some(keys),
            Ok(Err(why)) => {
                tracing::error!(url, why, "the key set cannot be fetched; the keys from before hold");
                None
            }
            Err(_) => {
                tracing::error!(url, "the key set was not there in time; the keys from before hold");
                None
            }
        }
    }

    async fn fetch(&self, url: &str) -> Result<Vec<CheckingKey>, String> {
        let make = || reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().ok();
        let client = self.client.get_or_init(make).as_ref().ok_or("no HTTP client can be made")?;
        let mut response = client.get(url).send().await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            body.extend_from_slice(&chunk);
            if body.len() > BYTES_MAX {
                return Err(format!("it has more than {BYTES_MAX} bytes"));
            }
        }
        jwt::key_set(&body)
    }
}
