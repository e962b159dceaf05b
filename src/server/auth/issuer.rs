//! The issuer whose access tokens a server requires.

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::{
    key_store::KeyStore,
    settings::{AuthError, AuthSettings},
    validator::{ClaimsHook, TokenValidator},
};

/// Requires an access token (OAuth 2.0) of one issuer for one audience. Cheap to clone; clones share the keys.
#[derive(Clone, Debug)]
pub struct Auth {
    pub(super) validator: Arc<TokenValidator>,
    pub(in crate::server) keys: KeyStore,
}

impl Auth {
    /// Checks the settings, and reads the keys if they are in a file. Blocking. Keys at a URL are fetched
    /// when the server runs; until then, calls that need a token fail.
    ///
    /// # Errors
    ///
    /// See [`AuthError`].
    pub fn load(settings: AuthSettings) -> Result<Self, AuthError> {
        // Without a provider, jsonwebtoken panics at the first token. An error means that the program has
        // installed one already.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let algorithms = settings.algorithms.iter().map(|name| parse_algorithm(name));
        let algorithms: Vec<_> = algorithms.collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            return Err(AuthError::NoAlgorithm);
        }
        for (name, text) in [
            ("issuer", &settings.issuer),
            ("audience", &settings.audience),
        ] {
            if text.is_empty() {
                return Err(AuthError::Empty(name));
            }
        }
        let keys = KeyStore::new(&settings, algorithms)?;
        Ok(Self {
            validator: Arc::new(TokenValidator::new(settings)),
            keys,
        })
    }

    /// Sets the hook for the claims of valid tokens.
    pub(in crate::server) fn with_claims_hook(self, hook: ClaimsHook) -> Self {
        Self {
            validator: Arc::new(self.validator.with_claims_hook(hook)),
            ..self
        }
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, AuthError> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match name.parse() {
        Ok(algorithm @ (RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)) => {
            Ok(algorithm)
        }
        _ => Err(AuthError::Algorithm(name.to_owned())),
    }
}
