//! The keys of an issuer, a JWK set (RFC 7517).

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// Maximum number of keys that one token is checked with. Issuers have two or three at a time; a check takes
/// about ten microseconds.
const MAX_CANDIDATES: usize = 8;

/// Keys that verify tokens.
#[derive(Debug)]
pub(super) struct Jwks(Vec<VerifyingKey>);

#[derive(Debug)]
struct VerifyingKey {
    id: Option<String>,
    /// The allowed algorithms that the key can verify.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A document contains no key that could verify a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidJwks {
    #[error("it is not a JWK set (RFC 7517)")]
    Malformed,
    #[error("it has no key for any of the allowed algorithms")]
    NoneFits,
}

#[derive(Deserialize)]
struct JwksDocument {
    keys: Vec<serde_json::Value>,
}

impl Jwks {
    /// Parses the keys that fit one of `algorithms`. Other keys are ignored, so that a new type of key does not
    /// disable the ones in use.
    pub(super) fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, InvalidJwks> {
        let document: JwksDocument =
            serde_json::from_slice(document).map_err(|_| InvalidJwks::Malformed)?;
        let jwks = document.keys.into_iter();
        let jwks = jwks.filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<_> = jwks
            .filter_map(|jwk| verifying_key(&jwk, algorithms))
            .collect();
        match keys.is_empty() {
            true => Err(InvalidJwks::NoneFits),
            false => Ok(Self(keys)),
        }
    }

    /// Returns the keys that may have signed a token with this key id, if it has one.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
            .take(MAX_CANDIDATES)
            .map(|key| &key.key)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

fn verifying_key(jwk: &Jwk, allowed: &[Algorithm]) -> Option<VerifyingKey> {
    let common = &jwk.common;
    let is_for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
        && common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let algorithms = supported_algorithms(&jwk.algorithm).iter().copied();
    let algorithms: Vec<_> = algorithms
        .filter(|algorithm| allowed.contains(algorithm))
        .filter(|algorithm| {
            let own = common.key_algorithm;
            own.is_none_or(|own| own == KeyAlgorithm::from(*algorithm))
        })
        .collect();
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (is_for_signatures && !algorithms.is_empty()).then(|| VerifyingKey {
        id: common.key_id.clone(),
        algorithms,
        key,
    })
}

/// Returns the algorithms that a type of key can verify. None for a shared secret: a verifier could sign.
fn supported_algorithms(key: &AlgorithmParameters) -> &'static [Algorithm] {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match key {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) => match key.curve {
            EllipticCurve::Ed25519 => &[EdDSA],
            _ => &[],
        },
        _ => &[],
    }
}
