//! The keys of the issuer, read again and again: keys come and go, and the issuer may be away for a
//! while.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::Algorithm;
use reqwest::Url;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{AuthError, AuthSettings, KeySet, KeySource, oauth};
use crate::{oauth::HttpClient, server::wait::after};

/// How long after a token with an unknown key had the keys read again another one may.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// How long a call waits for keys that are being read.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many calls wait so at a time, where all may be of somebody who makes up keys.
const WAITING: usize = 1024;

/// The keys are read no more often than this, whatever was asked for.
const SHORTEST_REFRESH: Duration = Duration::from_millis(100);

/// When to try again what failed: soon, and then less often.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The keys of an issuer. Clones share them.
#[derive(Clone)]
pub(in crate::server) struct Keys(Arc<Shared>);

struct Shared {
    source: Source,
    algorithms: Vec<Algorithm>,
    refresh: Duration,
    max_age: Duration,
    http: HttpClient,
    current: watch::Sender<Current>,
    /// Changes with `current`: to look at it takes no lock.
    number: AtomicU64,
    /// Somebody has a token with an unknown key.
    wanted: Notify,
    asked: Mutex<Option<Asked>>,
}

enum Source {
    Discovery(String),
    Url(Url),
    File(PathBuf),
}

/// The keys as they were read last.
#[derive(Clone, Debug, Default)]
pub(super) struct Current {
    /// How often they have been read, or were to be.
    pub(super) number: u64,
    pub(super) known: Option<Known>,
}

/// Keys, and until when they are believed in.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) keys: Arc<KeySet>,
    pub(super) until: Instant,
}

/// When the keys were asked for, and how often they had been read by then.
struct Asked {
    at: Instant,
    number: u64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.0.current.borrow();
        f.debug_struct("Keys").field("current", &*current).finish()
    }
}

impl Keys {
    /// Those of `settings`: known already where they are in a file.
    pub(super) fn new(
        settings: &AuthSettings,
        algorithms: Vec<Algorithm>,
    ) -> Result<Self, AuthError> {
        let url = |address: &str| {
            oauth::require_secure(address).map_err(|error| AuthError::Address {
                address: address.to_owned(),
                why: error.to_string(),
            })
        };
        let mut current = Current::default();
        let source = match &settings.keys {
            KeySource::Discovery => {
                url(&settings.issuer)?;
                Source::Discovery(settings.issuer.clone())
            }
            KeySource::Url(address) => Source::Url(url(address)?),
            KeySource::File(file) => {
                let keys = read_file(file)
                    .and_then(|document| parse(&document, &algorithms))
                    .map_err(|why| AuthError::Keys {
                        file: file.clone(),
                        why,
                    })?;
                current.known = Some(known(keys, settings.keys_max_age));
                Source::File(file.clone())
            }
        };
        let (current, _) = watch::channel(current);
        Ok(Self(Arc::new(Shared {
            source,
            algorithms,
            // Else they would be too old again and again, with an issuer that answers.
            refresh: settings
                .refresh
                .min(settings.keys_max_age / 2)
                .max(SHORTEST_REFRESH),
            max_age: settings.keys_max_age,
            http: HttpClient::default(),
            current,
            number: AtomicU64::new(0),
            wanted: Notify::new(),
            asked: Mutex::default(),
        })))
    }

    /// How often they have been read, or were to be.
    pub(super) fn number(&self) -> u64 {
        self.0.number.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> Current {
        self.0.current.borrow().clone()
    }

    /// Whether there are any to check a token with.
    pub(in crate::server) fn are_known(&self) -> bool {
        let current = self.0.current.borrow();
        current
            .known
            .as_ref()
            .is_some_and(|known| Instant::now() < known.until)
    }

    /// Has the keys read again for a token with a key that was not known when they had been read
    /// `number` times, unless that was so a moment ago, or too many wait. Gives what completes when
    /// they have been.
    pub(super) fn ask(&self, number: u64) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match &*asked {
            // They have been read since.
            _ if number != self.number() => {}
            // That they are being read for another is as good.
            Some(last) if last.number == number => {}
            Some(last) if last.at.elapsed() < ASKED_AGAIN => return None,
            _ => {
                *asked = Some(Asked {
                    at: Instant::now(),
                    number,
                });
                self.0.wanted.notify_one();
            }
        }
        if self.0.current.receiver_count() >= WAITING {
            return None;
        }
        let mut current = self.0.current.subscribe();
        Some(async move {
            let read = current.wait_for(|current| current.number != number);
            let _ = timeout(PATIENCE, read).await;
        })
    }

    /// Reads the keys again and again, for ever.
    pub(in crate::server) async fn refresh(self) {
        let mut failed = 0;
        if !self.are_known() {
            self.read(&mut failed).await;
        }
        loop {
            let pause = match failed {
                0 => self.0.refresh,
                _ => retry(failed).min(self.0.refresh),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.0.wanted.notified() => {}
            }
            self.read(&mut failed).await;
        }
    }

    /// Reads the keys. Where that fails, those from before stay, until they are too old.
    async fn read(&self, failed: &mut u32) {
        let shared = &self.0;
        let read = shared.fetch().await;
        let read = read.and_then(|document| parse(&document, &shared.algorithms));
        let known = match read {
            Ok(keys) => {
                if *failed > 0 {
                    tracing::info!("the keys of the issuer can be read again");
                }
                *failed = 0;
                Some(known(keys, shared.max_age))
            }
            Err(error) => {
                // Once, and not every second as long as it lasts.
                if *failed == 0 {
                    tracing::error!(error, "cannot read the keys of the issuer; trying again");
                }
                *failed = failed.saturating_add(1);
                None
            }
        };
        shared.current.send_modify(|current| {
            current.number += 1;
            if let Some(known) = known {
                current.known = Some(known);
            }
            shared.number.store(current.number, Ordering::Release);
        });
    }
}

impl Shared {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let told = |error: oauth::Error| error.to_string();
        match &self.source {
            Source::Discovery(issuer) => {
                let configuration = self.http.discover(issuer).await.map_err(told)?;
                let url = configuration.jwks_uri().map_err(told)?;
                self.http.fetch(&url).await.map_err(told)
            }
            Source::Url(url) => self.http.fetch(url).await.map_err(told),
            Source::File(file) => {
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

fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<KeySet, String> {
    KeySet::parse(document, algorithms).map_err(|error| error.to_string())
}

fn known(keys: KeySet, max_age: Duration) -> Known {
    Known {
        keys: Arc::new(keys),
        until: after(max_age),
    }
}

fn retry(failed: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failed - 1).unwrap_or(u32::MAX);
    FIRST_RETRY.saturating_mul(doubled).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Keys of an issuer that nobody asks for them.
    fn keys() -> Keys {
        let mut settings = AuthSettings::new("https://issuer.example", "audience");
        settings.keys = KeySource::Url("http://127.0.0.1:1/keys".to_owned());
        Keys::new(&settings, vec![Algorithm::ES256]).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looked_before_the_keys_were_read_looks_again_at_once() {
        let keys = keys();
        let first = keys.ask(0).unwrap();
        assert_eq!(first.now_or_never(), None);
        let asked = keys.ask(0).unwrap();
        keys.read(&mut 0).await;
        assert_eq!(asked.now_or_never(), Some(()));
        // It had looked, but not yet asked.
        let late = keys.ask(0).unwrap();
        assert_eq!(late.now_or_never(), Some(()));
        assert!(keys.ask(1).is_none());
        tokio::time::advance(ASKED_AGAIN).await;
        let again = keys.ask(1).unwrap();
        assert_eq!(again.now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_not_wait_for_ever_and_not_with_too_many() {
        let keys = keys();
        let waiting: Vec<_> = (0..WAITING).filter_map(|_| keys.ask(0)).collect();
        assert_eq!(waiting.len(), WAITING);
        assert!(keys.ask(0).is_none());
        let begin = Instant::now();
        futures::future::join_all(waiting).await;
        assert_eq!(begin.elapsed(), PATIENCE);
        assert!(keys.ask(0).is_some());
    }

    #[test]
    fn what_failed_is_tried_again_soon_and_then_less_often() {
        let pauses: Vec<_> = [1, 2, 3, 6, 32, 33, u32::MAX].map(retry).to_vec();
        let seconds = [1, 2, 4, 30, 30, 30, 30].map(Duration::from_secs);
        assert_eq!(pauses, seconds);
    }
}
