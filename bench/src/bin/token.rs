//! Makes an access token (RFC 9068) and the key set that verifies it, as an issuer would.
//!
//! The algorithm is RS256 with a key of 2048 bits, the most common choice.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Parser;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    crypto::aws_lc,
    encode,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use uuid::Uuid;

/// The lifetime of the token, longer than any measurement.
const TOKEN_LIFETIME: Duration = Duration::from_hours(12);

/// The length of the PKCS #8 header in front of the RSA key, in bytes.
const PKCS8_PREFIX_LEN: usize = 26;

/// Writes an access token, and the keys that verify it.
#[derive(Debug, Parser)]
struct Token {
    /// Where `token` and `jwks.json` are written; the private key is not kept
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// The issuer of the token (`iss`)
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// The audience of the token (`aud`)
    #[arg(long, value_name = "NAME")]
    audience: String,
}

impl Token {
    fn claims(&self) -> Result<Value> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(json!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": "5f0c6a1e-load",
            "client_id": "load",
            "scope": "greeter files.read files.write",
            "jti": Uuid::new_v4().to_string(),
            "iat": now.as_secs(),
            "exp": (now + TOKEN_LIFETIME).as_secs(),
        }))
    }
}

fn main() -> Result<()> {
    let token = Token::parse();
    // Installing fails only if a provider is installed already.
    let _ = aws_lc::DEFAULT_PROVIDER.install_default();
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let key = EncodingKey::from_rsa_der(&pair.serialized_der()[PKCS8_PREFIX_LEN..]);
    let id = Uuid::new_v4().to_string();

    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
    jwk.common.key_id = Some(id.clone());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    let keys = serde_json::to_string(&JwkSet { keys: vec![jwk] })?;
    fs::write(token.folder.join("jwks.json"), keys)?;

    let header = Header {
        typ: Some("at+jwt".to_owned()),
        kid: Some(id),
        ..Header::new(Algorithm::RS256)
    };
    let signed = encode(&header, &token.claims()?, &key)?;
    fs::write(token.folder.join("token"), signed)?;
    Ok(())
}
