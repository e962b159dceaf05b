//! What every call goes through that needs a token.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Access, Auth, Scope,
    refresh::{Current, Keys},
    token::{Caller, Expected, Flaw},
};

/// How many tokens are remembered that were found good. A client has one for some minutes.
const REMEMBERED: usize = 4096;

const SCHEME: &str = "bearer ";

/// Looks at the tokens of one worker's calls.
pub(in crate::server) struct Gate {
    expected: Arc<Expected>,
    keys: Keys,
    seen: Mutex<Seen>,
}

/// What has been seen of keys and tokens.
struct Seen {
    current: Current,
    /// The last token that was good. Most calls have the same as the one before, and to compare two
    /// takes less time than a digest.
    last: Option<(String, Arc<Caller>)>,
    /// By the digest of a token, which is of no use to who reads it here.
    good: HashMap<[u8; 32], Arc<Caller>>,
}

/// Why a call is not let in.
#[derive(Debug)]
pub(in crate::server) enum Denied {
    /// Its token is no good.
    Token(Flaw),
    /// Its token is signed by who is not among the keys, which had been read so often.
    UnknownKey(u64),
    /// Its token is good for other things.
    Scope(Scope),
    /// There is nothing to check a token with.
    NoKeys,
}

impl Denied {
    /// What is wrong with the token, if that is it.
    pub(in crate::server) fn flaw(&self) -> Option<Flaw> {
        match self {
            Self::Token(flaw) => Some(*flaw),
            Self::UnknownKey(_) => Some(Flaw::UnknownKey),
            Self::Scope(_) | Self::NoKeys => None,
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    pub(in crate::server) fn new(auth: &Auth) -> Self {
        Self {
            expected: Arc::clone(&auth.expected),
            keys: auth.keys.clone(),
            // Those of a file have been read already.
            seen: Mutex::new(Seen::new(auth.keys.current())),
        }
    }

    /// Who calls, if the call needs a token and has one that is good for it.
    pub(in crate::server) fn admit(
        &self,
        headers: &HeaderMap,
        access: Access,
    ) -> Result<Option<Arc<Caller>>, Denied> {
        if access == Access::Public {
            return Ok(None);
        }
        let token = bearer(headers).ok_or(Denied::Token(Flaw::Missing))?;
        let caller = self.caller(token)?;
        match access {
            Access::Scope(scope) if !caller.may(scope) => Err(Denied::Scope(scope)),
            _ => Ok(Some(caller)),
        }
    }

    /// The name of a scope, for who does not have it.
    pub(in crate::server) fn name(&self, scope: Scope) -> &str {
        self.expected.name(scope)
    }

    /// Where a token is signed by who knows whom, what completes when the keys have been read again;
    /// after that, it is worth another look.
    pub(in crate::server) fn ask(
        &self,
        denied: &Denied,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        match denied {
            Denied::UnknownKey(number) => self.keys.ask(*number),
            _ => None,
        }
    }

    fn caller(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let mut seen = self.seen();
        if seen.current.number != self.keys.number() {
            // A key may be gone.
            *seen = Seen::new(self.keys.current());
        }
        let now = Instant::now();
        let known = seen.current.known.as_ref();
        // Also for tokens that were good a moment ago.
        let known = known.filter(|known| now < known.until);
        let known = known.ok_or(Denied::NoKeys)?;
        if let Some((last, caller)) = &seen.last
            && last == token
            && now < caller.until
        {
            return Ok(Arc::clone(caller));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let remembered = seen.good.get(&digest).filter(|caller| now < caller.until);
        let caller = match remembered {
            Some(caller) => Arc::clone(caller),
            None => {
                let number = seen.current.number;
                let caller = self.expected.check(token, &known.keys);
                let caller = Arc::new(caller.map_err(|flaw| match flaw {
                    Flaw::UnknownKey => Denied::UnknownKey(number),
                    flaw => Denied::Token(flaw),
                })?);
                if seen.good.len() == REMEMBERED {
                    // Rarely: all that are still used are soon there again.
                    seen.good.clear();
                }
                seen.good.insert(digest, Arc::clone(&caller));
                caller
            }
        };
        seen.last = Some((token.to_owned(), Arc::clone(&caller)));
        Ok(caller)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing that panics leaves it half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn new(current: Current) -> Self {
        Self {
            current,
            last: None,
            good: HashMap::new(),
        }
    }
}

/// The one token of a call.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}
