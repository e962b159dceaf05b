//! The keys of an issuer.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// How many keys of one name, or of a token without one, are tried. Issuers have two or three at a
/// time; a check takes some ten microseconds.
const TRIED: usize = 8;

/// Keys that verify tokens.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// What it may verify, of what is allowed here.
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// There is no key in it that could verify a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeys {
    #[error("it is not a JWK set")]
    Malformed,
    #[error("none of its keys is for an algorithm that is allowed")]
    NoneFits,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Those of a JWK set that fit one of `algorithms`. Others are left out, whatever they are:
    /// tomorrow's keys shall not keep out today's.
    pub(super) fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, NoKeys> {
        let document: Document = serde_json::from_slice(document).map_err(|_| NoKeys::Malformed)?;
        let jwks = document.keys.into_iter();
        let jwks = jwks.filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<_> = jwks.filter_map(|jwk| key(&jwk, algorithms)).collect();
        match keys.is_empty() {
            true => Err(NoKeys::NoneFits),
            false => Ok(Self(keys)),
        }
    }

    /// Those that may have signed a token: of that name, if it names one.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
            .take(TRIED)
            .map(|key| &key.key)
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

fn key(jwk: &Jwk, allowed: &[Algorithm]) -> Option<Key> {
    let common = &jwk.common;
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
        && common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let algorithms = possible(&jwk.algorithm).iter().copied();
    let algorithms: Vec<_> = algorithms
        .filter(|algorithm| allowed.contains(algorithm))
        .filter(|algorithm| {
            let own = common.key_algorithm;
            own.is_none_or(|own| own == KeyAlgorithm::from(*algorithm))
        })
        .collect();
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (signs && !algorithms.is_empty()).then(|| Key {
        id: common.key_id.clone(),
        algorithms,
        key,
    })
}

/// What a kind of key can verify. A shared secret nothing: whoever can verify with it can sign.
fn possible(key: &AlgorithmParameters) -> &'static [Algorithm] {
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
