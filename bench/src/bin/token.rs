//! An access token (RFC 9068), and the keys that a server knows it by, as an issuer would make
//! them: RS256 with a key of 2048 bits, which is what most of them use.

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

/// Longer than any measurement.
const HOLDS: Duration = Duration::from_hours(12);

/// What comes before the key of RSA itself in PKCS #8, in bytes.
const PKCS8_HEAD: usize = 26;

/// Who the token is from and for, and where it goes.
#[derive(Debug, Parser)]
struct Token {
    /// Where `token` and `jwks.json` are written; the private key is not kept
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Who has issued it
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// Whom it is for
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
            "exp": (now + HOLDS).as_secs(),
        }))
    }
}

fn main() -> Result<()> {
    let token = Token::parse();
    // Fails only where it was done before.
    let _ = aws_lc::DEFAULT_PROVIDER.install_default();
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let key = EncodingKey::from_rsa_der(&pair.serialized_der()[PKCS8_HEAD..]);
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
