//! Fetches the issuer's keys periodically, and keeps the last usable ones while the issuer is unavailable.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    jwks::Jwks,
    settings::{AuthError, AuthSettings, KeySource},
};
use crate::{
    oauth::{self, HttpClient},
    server::timer::deadline_after,
};

/// Minimum time between two refreshes that tokens with unknown keys cause.
const UNKNOWN_KEY_COOLDOWN: Duration = Duration::from_secs(30);

/// Timeout of a call that waits for a refresh.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of calls that wait for a refresh at a time. All may carry made-up key ids.
const MAX_WAITERS: usize = 1024;

/// The shortest refresh interval, whatever is configured.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// The delay after the first failed refresh, and the longest one after repeated failures.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// The keys of an issuer. Clones share them.
#[derive(Clone)]
pub(in crate::server) struct KeyStore(Arc<KeyStoreInner>);

struct KeyStoreInner {
    location: KeyLocation,
    algorithms: Vec<Algorithm>,
    refresh: Duration,
    max_age: Duration,
    http: HttpClient,
    current: watch::Sender<CachedKeys>,
    /// A copy of the generation in `current`, which can be read without a lock.
    generation: AtomicU64,
    /// Wakes the refresh task for a token with an unknown key.
    refresh_requested: Notify,
    last_request: Mutex<Option<RefreshRequest>>,
}

enum KeyLocation {
    Discovery(String),
    Url(Url),
    File(PathBuf),
}

/// The keys after the latest refresh.
#[derive(Clone, Debug, Default)]
pub(super) struct CachedKeys {
    /// The number of refreshes, including failed ones.
    pub(super) generation: u64,
    pub(super) usable: Option<UsableKeys>,
}

/// Keys and the end of their use.
#[derive(Clone, Debug)]
pub(super) struct UsableKeys {
    pub(super) jwks: Arc<Jwks>,
    pub(super) until: Instant,
}

/// The latest refresh that a token with an unknown key requested, and the generation of keys at that time.
struct RefreshRequest {
    at: Instant,
    generation: u64,
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.0.current.borrow();
        f.debug_struct("KeyStore")
            .field("current", &*current)
            .finish()
    }
}

impl KeyStore {
    /// Reads the keys if they are in a file; others are fetched by [`KeyStore::refresh`].
    pub(super) fn new(
        settings: &AuthSettings,
        algorithms: Vec<Algorithm>,
    ) -> Result<Self, AuthError> {
        let url = |address: &str| {
            oauth::require_secure(address).map_err(|error| AuthError::Address {
                // It may hold a password.
                address: oauth::redact_text(address),
                why: error.to_string(),
            })
        };
        let mut current = CachedKeys::default();
        let location = match &settings.keys {
            KeySource::Discovery => {
                url(&settings.issuer)?;
                KeyLocation::Discovery(settings.issuer.clone())
            }
            KeySource::Url(address) => KeyLocation::Url(url(address)?),
            KeySource::File(file) => {
                let jwks = read_file(file)
                    .and_then(|document| parse(&document, &algorithms))
                    .map_err(|why| AuthError::Keys {
                        file: file.clone(),
                        why,
                    })?;
                current.usable = Some(usable_until(jwks, settings.keys_max_age));
                KeyLocation::File(file.clone())
            }
        };
        let (current, _) = watch::channel(current);
        Ok(Self(Arc::new(KeyStoreInner {
            location,
            algorithms,
            // A longer interval would let the keys expire between two successful refreshes.
            refresh: settings
                .refresh
                .min(settings.keys_max_age / 2)
                .max(MIN_REFRESH_INTERVAL),
            max_age: settings.keys_max_age,
            http: HttpClient::default(),
            current,
            generation: AtomicU64::new(0),
            refresh_requested: Notify::new(),
            last_request: Mutex::default(),
        })))
    }

    /// The number of refreshes so far.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> CachedKeys {
        self.0.current.borrow().clone()
    }

    /// Whether tokens can be checked.
    pub(in crate::server) fn is_ready(&self) -> bool {
        let current = self.0.current.borrow();
        current
            .usable
            .as_ref()
            .is_some_and(|usable| Instant::now() < usable.until)
    }

    /// Requests a refresh for a token whose key the keys of `generation` do not contain. Returns a future that
    /// completes after the refresh. None: a refresh was requested within 30 s, or too many calls wait.
    pub(super) fn request_refresh(
        &self,
        generation: u64,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut last_request = self.0.last_request.lock();
        match &*last_request {
            // The keys have been refreshed since the token was checked.
            _ if generation != self.generation() => {}
            // A refresh is running for another token.
            Some(last) if last.generation == generation => {}
            Some(last) if last.at.elapsed() < UNKNOWN_KEY_COOLDOWN => return None,
            _ => {
                *last_request = Some(RefreshRequest {
                    at: Instant::now(),
                    generation,
                });
                self.0.refresh_requested.notify_one();
            }
        }
        if self.0.current.receiver_count() >= MAX_WAITERS {
            return None;
        }
        let mut current = self.0.current.subscribe();
        Some(async move {
            let refreshed = current.wait_for(|current| current.generation != generation);
            let _ = timeout(REFRESH_TIMEOUT, refreshed).await;
        })
    }

    /// Fetches the keys periodically, forever.
    pub(in crate::server) async fn refresh(self) {
        let mut failures = 0;
        if !self.is_ready() {
            self.refresh_once(&mut failures).await;
        }
        loop {
            let delay = match failures {
                0 => self.0.refresh,
                _ => retry_delay(failures).min(self.0.refresh),
            };
            tokio::select! {
                () = sleep(delay) => {}
                () = self.0.refresh_requested.notified() => {}
            }
            self.refresh_once(&mut failures).await;
        }
    }

    /// Fetches the keys. If that fails, the previous keys stay in use until they are too old.
    async fn refresh_once(&self, failures: &mut u32) {
        let inner = &self.0;
        let fetched = inner.fetch().await;
        let fetched = fetched.and_then(|document| parse(&document, &inner.algorithms));
        let usable = match fetched {
            Ok(jwks) => {
                if *failures > 0 {
                    tracing::info!("the issuer's keys can be fetched again");
                }
                *failures = 0;
                Some(usable_until(jwks, inner.max_age))
            }
            Err(error) => {
                // One line for the whole outage.
                if *failures == 0 {
                    tracing::error!(error, "cannot fetch the issuer's keys; retrying");
                }
                *failures = failures.saturating_add(1);
                None
            }
        };
        inner.current.send_modify(|current| {
            current.generation += 1;
            if usable.is_some() {
                current.usable = usable;
            }
            inner
                .generation
                .store(current.generation, Ordering::Release);
        });
    }
}

impl KeyStoreInner {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let message = |error: oauth::Error| error.to_string();
        match &self.location {
            KeyLocation::Discovery(issuer) => {
                let metadata = self.http.discover(issuer).await.map_err(message)?;
                let url = metadata.jwks_uri().map_err(message)?;
                self.http.fetch(&url).await.map_err(message)
            }
            KeyLocation::Url(url) => self.http.fetch(url).await.map_err(message),
            KeyLocation::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&file)).await;
                read.unwrap_or_else(|error| Err(error.to_string()))
            }
        }
    }
}

fn read_file(file: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| error.to_string())
}

fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<Jwks, String> {
    Jwks::parse(document, algorithms).map_err(|error| error.to_string())
}

fn usable_until(jwks: Jwks, max_age: Duration) -> UsableKeys {
    UsableKeys {
        jwks: Arc::new(jwks),
        until: deadline_after(max_age),
    }
}

fn retry_delay(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    MIN_RETRY_DELAY.saturating_mul(factor).min(MAX_RETRY_DELAY)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// The keys of an issuer that does not answer.
    fn keys() -> KeyStore {
        let mut settings = AuthSettings::new("https://issuer.example", "audience");
        settings.keys = KeySource::Url("http://127.0.0.1:1/keys".to_owned());
        KeyStore::new(&settings, vec![Algorithm::ES256]).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn token_checked_before_a_refresh_is_checked_again_at_once() {
        let keys = keys();
        let first = keys.request_refresh(0).unwrap();
        assert_eq!(first.now_or_never(), None);
        let waiting = keys.request_refresh(0).unwrap();
        keys.refresh_once(&mut 0).await;
        assert_eq!(waiting.now_or_never(), Some(()));
        // The token was checked before the refresh, and requests one after.
        let late = keys.request_refresh(0).unwrap();
        assert_eq!(late.now_or_never(), Some(()));
        assert!(keys.request_refresh(1).is_none());
        tokio::time::advance(UNKNOWN_KEY_COOLDOWN).await;
        let again = keys.request_refresh(1).unwrap();
        assert_eq!(again.now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_calls_are_bounded_in_time_and_number() {
        let keys = keys();
        let waiting: Vec<_> = (0..MAX_WAITERS)
            .filter_map(|_| keys.request_refresh(0))
            .collect();
        assert_eq!(waiting.len(), MAX_WAITERS);
        assert!(keys.request_refresh(0).is_none());
        let begin = Instant::now();
        futures::future::join_all(waiting).await;
        assert_eq!(begin.elapsed(), REFRESH_TIMEOUT);
        assert!(keys.request_refresh(0).is_some());
    }

    #[test]
    fn retry_delay_doubles_up_to_its_maximum() {
        let delays: Vec<_> = [1, 2, 3, 6, 32, 33, u32::MAX].map(retry_delay).to_vec();
        let seconds = [1, 2, 4, 30, 30, 30, 30].map(Duration::from_secs);
        assert_eq!(delays, seconds);
    }
}
