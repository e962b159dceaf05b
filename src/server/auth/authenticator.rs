//! Checks the access token of each call.

use std::{collections::HashMap, fmt, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    issuer::Auth,
    jwks::Jwks,
    key_store::{CachedKeys, KeyStore},
    settings::{Access, Scope},
    validator::{Identity, InvalidToken, TokenValidator},
};

/// Maximum number of valid tokens that are remembered. A client uses one token for some minutes.
const TOKEN_CACHE_CAPACITY: usize = 4096;

const SCHEME: &str = "bearer ";

/// Checks the tokens of one worker's calls.
pub(in crate::server) struct Authenticator {
    validator: Arc<TokenValidator>,
    keys: KeyStore,
    cache: Mutex<TokenCache>,
}

/// The tokens that are valid under the current keys.
struct TokenCache {
    keys: CachedKeys,
    /// The last valid token. Most calls carry the same one as the call before, and comparing tokens is faster
    /// than hashing one.
    last: Option<(String, Arc<Identity>)>,
    /// Keyed by digest: only the last token is kept as it is.
    by_digest: HashMap<[u8; 32], Arc<Identity>>,
}

/// Why a call is rejected.
#[derive(Debug)]
pub(in crate::server) enum Denied {
    /// The token is missing or invalid.
    Token(InvalidToken),
    /// The token names a key that the keys of this generation do not contain.
    UnknownKey(u64),
    /// The token lacks this scope.
    Scope(Scope),
    /// No keys are available.
    NoKeys,
}

impl Denied {
    /// Returns what is wrong with the token, if the token is the problem.
    pub(in crate::server) fn invalid_token(&self) -> Option<InvalidToken> {
        match self {
            Self::Token(invalid) => Some(*invalid),
            Self::UnknownKey(_) => Some(InvalidToken::UnknownKey),
            Self::Scope(_) | Self::NoKeys => None,
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    pub(in crate::server) fn new(auth: &Auth) -> Self {
        Self {
            validator: Arc::clone(&auth.validator),
            keys: auth.keys.clone(),
            cache: Mutex::new(TokenCache::new(auth.keys.current())),
        }
    }

    /// Returns the caller's identity; None where the method requires none.
    pub(in crate::server) fn authenticate(
        &self,
        headers: &HeaderMap,
        access: &Access,
    ) -> Result<Option<Arc<Identity>>, Denied> {
        if *access == Access::Public {
            return Ok(None);
        }
        let token = bearer_token(headers).ok_or(Denied::Token(InvalidToken::Missing))?;
        let identity = self.identity(token)?;
        match access {
            Access::Scope(scope) if !identity.has_scope(scope) => Err(Denied::Scope(scope.clone())),
            _ => Ok(Some(identity)),
        }
    }

    /// If the token names an unknown key (`kid`), returns a future that completes after the next key refresh;
    /// the token should be checked again then. None: the keys were refreshed for such a token within 30 s, or
    /// too many calls wait.
    pub(in crate::server) fn request_refresh(
        &self,
        denied: &Denied,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        match denied {
            Denied::UnknownKey(generation) => self.keys.request_refresh(*generation),
            _ => None,
        }
    }

    fn identity(&self, token: &str) -> Result<Arc<Identity>, Denied> {
        let (generation, jwks) = match self.look_up(token)? {
            Lookup::Found(identity) => return Ok(identity),
            Lookup::Missing { generation, jwks } => (generation, jwks),
        };
        // Without the lock: a check of a signature takes longer than all other calls' lookups.
        let identity = self.validator.validate(token, &jwks);
        let identity = Arc::new(identity.map_err(|invalid| match invalid {
            InvalidToken::UnknownKey => Denied::UnknownKey(generation),
            invalid => Denied::Token(invalid),
        })?);
        self.cache.lock().insert(generation, token, &identity);
        Ok(identity)
    }

    fn look_up(&self, token: &str) -> Result<Lookup, Denied> {
        let mut cache = self.cache.lock();
        if cache.keys.generation != self.keys.generation() {
            // The key that signed a cached token may have been revoked.
            *cache = TokenCache::new(self.keys.current());
        }
        let now = Instant::now();
        // Keys that are too old are not used for cached tokens either.
        if !cache.has_keys(now) {
            return Err(Denied::NoKeys);
        }
        if let Some(identity) = cache.get(token, now) {
            return Ok(Lookup::Found(identity));
        }
        // Cloned for a new token only: all workers share the reference count.
        let usable = cache.keys.usable.as_ref().ok_or(Denied::NoKeys)?;
        Ok(Lookup::Missing {
            generation: cache.keys.generation,
            jwks: Arc::clone(&usable.jwks),
        })
    }
}

/// What the cache has for a token.
enum Lookup {
    Found(Arc<Identity>),
    /// The token has to be validated with these keys.
    Missing {
        generation: u64,
        jwks: Arc<Jwks>,
    },
}

impl TokenCache {
    fn new(keys: CachedKeys) -> Self {
        Self {
            keys,
            last: None,
            by_digest: HashMap::new(),
        }
    }

    fn has_keys(&self, now: Instant) -> bool {
        let usable = self.keys.usable.as_ref();
        usable.is_some_and(|usable| now < usable.until)
    }

    fn get(&mut self, token: &str, now: Instant) -> Option<Arc<Identity>> {
        if let Some((last, identity)) = &self.last
            && last == token
            && now < identity.expires_at()
        {
            return Some(Arc::clone(identity));
        }
        let identity = self.by_digest.get(&digest(token));
        let identity = Arc::clone(identity.filter(|identity| now < identity.expires_at())?);
        self.last = Some((token.to_owned(), Arc::clone(&identity)));
        Some(identity)
    }

    /// Adds a token that is valid under the keys of `generation`, unless the keys have changed since.
    fn insert(&mut self, generation: u64, token: &str, identity: &Arc<Identity>) {
        if self.keys.generation != generation {
            return;
        }
        if self.by_digest.len() == TOKEN_CACHE_CAPACITY {
            // Seldom, and tokens that are in use are soon cached again.
            self.by_digest.clear();
        }
        self.by_digest.insert(digest(token), Arc::clone(identity));
        self.last = Some((token.to_owned(), Arc::clone(identity)));
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Returns the token of a request that has exactly one.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}
