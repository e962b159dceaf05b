//! Signing keys, and tokens with any header and claims.

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    RsaKeySize,
};
use serde_json::{Value, json};

use super::auth::{ALL_SCOPES, AUDIENCE, ISSUER, now};

/// The length of the PKCS #8 prefix of an RSA key, in bytes.
const PKCS8_HEAD_BYTES: usize = 26;

/// A key pair with a key ID.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) pair: KeyPair,
    private: EncodingKey,
}

/// The RSA key that most tests share, because generating one is slow.
pub(crate) fn rsa() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::new("rsa", Algorithm::RS256))
}

impl Key {
    pub(crate) fn new(id: &str, algorithm: Algorithm) -> Self {
        // The provider can be installed once in a process.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let pair = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Algorithm::EdDSA => KeyPair::generate_for(&PKCS_ED25519),
            _ => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let pair = pair.unwrap();
        let private = pair.serialized_der();
        Self {
            id: id.to_owned(),
            algorithm,
            private: match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_der(private),
                Algorithm::EdDSA => EncodingKey::from_ed_der(private),
                _ => EncodingKey::from_rsa_der(&private[PKCS8_HEAD_BYTES..]),
            },
            pair,
        }
    }

    /// Generates another pair with the same key ID.
    pub(crate) fn with_same_id(&self) -> Self {
        Self::new(&self.id, self.algorithm)
    }

    /// Returns the public key as a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        let public = self.pair.public_key_raw();
        let mut jwk = match self.algorithm {
            Algorithm::ES256 | Algorithm::ES384 => {
                let (x, y) = public[1..].split_at((public.len() - 1) / 2);
                let curve = match self.algorithm {
                    Algorithm::ES256 => "P-256",
                    _ => "P-384",
                };
                json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y) })
            }
            Algorithm::EdDSA => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(public) }),
            _ => json!({ "kty": "RSA", "n": base64(self.modulus()), "e": "AQAB" }),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// Returns the modulus of an RSA key: the 256 bytes before the exponent 65537.
    pub(crate) fn modulus(&self) -> &[u8] {
        let public = self.pair.public_key_raw();
        &public[public.len() - 256 - 5..public.len() - 5]
    }
}

/// A JSON object as written, which may repeat a name.
#[derive(Clone, Default)]
struct Members(Vec<(String, String)>);

impl Members {
    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.add(name, value);
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    fn text(&self) -> String {
        let members = self.0.iter();
        let members: Vec<_> = members
            .map(|(name, value)| format!("{name:?}:{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    }
}

/// A token before it is signed. Values are JSON texts.
#[derive(Clone)]
pub(crate) struct Token {
    header: Members,
    claims: Members,
}

impl Token {
    /// A token that is valid when `key` has signed it.
    pub(crate) fn new(key: &Key) -> Self {
        let now = now();
        let mut token = Self {
            header: Members::default(),
            claims: Members::default(),
        };
        for (name, value) in [
            ("typ", "at+jwt".to_owned()),
            ("alg", format!("{:?}", key.algorithm)),
            ("kid", key.id.clone()),
        ] {
            token.header.set(name, &json!(value).to_string());
        }
        for (name, value) in [
            ("iss", json!(ISSUER)),
            ("aud", json!(AUDIENCE)),
            ("sub", json!("somebody")),
            ("client_id", json!("somebody")),
            ("iat", json!(now)),
            ("exp", json!(now + 600)),
            ("jti", json!("1")),
            ("scope", json!(ALL_SCOPES)),
        ] {
            token.claims.set(name, &value.to_string());
        }
        token
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.header.set(name, value);
        self
    }

    pub(crate) fn claim(mut self, name: &str, value: &str) -> Self {
        self.claims.set(name, value);
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    pub(crate) fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Adds a member in front of the existing ones, also if its name is there already.
    pub(crate) fn header_before(mut self, name: &str, value: &str) -> Self {
        let members = &mut self.header.0;
        members.insert(0, (name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn claim_before(mut self, name: &str, value: &str) -> Self {
        let members = &mut self.claims.0;
        members.insert(0, (name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the JSON of the claims.
    pub(crate) fn claim_text(&self) -> String {
        self.claims.text()
    }

    /// Returns the signing input.
    pub(crate) fn message(&self) -> String {
        let parts = [&self.header, &self.claims];
        parts.map(|part| base64(part.text().as_bytes())).join(".")
    }

    pub(crate) fn sign(&self, key: &Key) -> String {
        self.sign_with(key, key.algorithm)
    }

    /// Signs with an algorithm that may differ from `alg` in the header.
    pub(crate) fn sign_with(&self, key: &Key, algorithm: Algorithm) -> String {
        self.sign_message(&key.private, algorithm)
    }

    /// Signs with a symmetric key.
    pub(crate) fn sign_hmac(&self, secret: &[u8], algorithm: Algorithm) -> String {
        self.sign_message(&EncodingKey::from_secret(secret), algorithm)
    }

    fn sign_message(&self, key: &EncodingKey, algorithm: Algorithm) -> String {
        let message = self.message();
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm);
        format!("{message}.{}", signature.unwrap())
    }

    /// Appends any text as the signature.
    pub(crate) fn with_signature(&self, signature: &str) -> String {
        format!("{}.{signature}", self.message())
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
