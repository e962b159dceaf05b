//! Rows of the tables of access tokens, and the key pairs and forgeries they are made of.

use http::HeaderValue;
use jsonwebtoken::Algorithm::{ES256, EdDSA, RS256};
use serde_json::json;

use super::{
    auth::{KeyFile, valid_token},
    signing::{Key, base64, rsa},
};

/// The largest token that the server parses, in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The symmetric key of the JWK set, which no algorithm may use.
pub(crate) const SECRET: &[u8] = b"a shared secret of thirty-two bytes";

/// A named case: all values of the `authorization` header of a call.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) authorization: Vec<HeaderValue>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, authorization: &[&str]) -> Self {
        let values = authorization.iter();
        let values = values.map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap());
        Self {
            name: name.into(),
            authorization: values.collect(),
        }
    }

    /// A call with one bearer token.
    pub(crate) fn bearer(name: impl Into<String>, token: &str) -> Self {
        Self::new(name, &[&format!("Bearer {token}")])
    }
}

/// The key pairs that the tables sign with.
pub(crate) struct KeyPairs {
    pub(crate) ec: Key,
    pub(crate) ed: Key,
    /// An RSA pair with the key ID of the trusted one.
    pub(crate) attacker_rsa: Key,
    /// A P-256 pair with that key ID.
    pub(crate) attacker_ec: Key,
}

impl KeyPairs {
    pub(crate) fn generate() -> Self {
        Self {
            ec: Key::new("ec", ES256),
            ed: Key::new("ed", EdDSA),
            attacker_rsa: rsa().with_same_id(),
            attacker_ec: Key::new("rsa", ES256),
        }
    }

    /// A JWK set with the trusted keys of RSA, P-256 and Ed25519, and the symmetric key.
    pub(crate) fn key_file(&self) -> KeyFile {
        let secret = json!({ "kty": "oct", "kid": "oct", "k": base64(SECRET) });
        KeyFile::new(&[rsa().jwk(), self.ec.jwk(), self.ed.jwk(), secret])
    }
}

/// Signs any text with the RSA key of the issuer.
pub(crate) fn sign_text(message: &str) -> String {
    let private = jsonwebtoken::EncodingKey::from_rsa_der(&rsa().pair.serialized_der()[26..]);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &private, RS256);
    format!("{message}.{}", signature.unwrap())
}

/// Signs a valid token of exactly `length` bytes.
pub(crate) fn token_of_length(length: usize) -> String {
    (0..4)
        .flat_map(|more| (0..4).map(move |less| (more, less)))
        .find_map(|(more, less)| {
            let token = valid_token().header("x", &format!("\"{}\"", "x".repeat(more)));
            let short = token.sign(rsa()).len();
            let filler = (length - short) * 3 / 4 - 8 + less;
            let token = token.claim("y", &format!("\"{}\"", "y".repeat(filler)));
            Some(token.sign(rsa())).filter(|signed| signed.len() == length)
        })
        .expect("a character of the claims is one of the token, or two")
}
