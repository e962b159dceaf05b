//! Invalid settings of authentication are rejected at start.

use std::path::PathBuf;

use muxs::server::{Auth, AuthError, AuthSettings, KeySource, Scope};

use crate::support::{
    auth::{AUDIENCE, ISSUER, KeyFile, jwks},
    signing::{Key, rsa},
};

fn with_keys(keys: KeySource) -> AuthSettings {
    AuthSettings {
        keys,
        ..AuthSettings::new(ISSUER, AUDIENCE)
    }
}

#[test]
fn symmetric_algorithms_are_rejected() {
    let file = KeyFile::new(&[rsa().jwk()]);
    for name in [
        "HS256", "HS384", "HS512", "none", "", "RS255", "rs256", "ES256 ", "ES512",
    ] {
        let settings = AuthSettings {
            algorithms: vec!["RS256".to_owned(), name.to_owned()],
            ..file.settings()
        };
        let error = Auth::load(settings).unwrap_err();
        assert!(
            matches!(&error, AuthError::Algorithm(value) if value == name),
            "{error}"
        );
    }
    let none = AuthSettings {
        algorithms: Vec::new(),
        ..file.settings()
    };
    assert!(matches!(Auth::load(none), Err(AuthError::NoAlgorithm)));
}

#[test]
fn issuer_url_must_be_https_or_loopback() {
    for address in [
        "http://issuer.example",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.example/keys",
        "https://name:secret@issuer.example",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "issuer.example",
        "https://",
    ] {
        let discovery = AuthSettings::new(address, AUDIENCE);
        for settings in [discovery, with_keys(KeySource::Url(address.to_owned()))] {
            let error = Auth::load(settings).unwrap_err();
            assert!(matches!(error, AuthError::Address { .. }), "{error}");
        }
    }
    for address in [
        "https://issuer.example",
        "http://127.0.0.1:1",
        "http://[::1]/",
        "http://localhost",
    ] {
        assert!(
            Auth::load(AuthSettings::new(address, AUDIENCE)).is_ok(),
            "{address}"
        );
    }
}

#[test]
fn key_file_without_keys_is_rejected() {
    let missing = PathBuf::from("/nowhere/at/all");
    let error = Auth::load(with_keys(KeySource::File(missing.clone()))).unwrap_err();
    assert!(matches!(error, AuthError::Keys { file, .. } if file == missing));
    let folder = tempfile::tempdir().unwrap();
    assert!(Auth::load(with_keys(KeySource::File(folder.path().to_owned()))).is_err());
    let mut encrypts = rsa().jwk();
    encrypts["use"] = "enc".into();
    let mut wraps = rsa().jwk();
    wraps["key_ops"] = serde_json::json!(["wrapKey"]);
    let mut oaep = rsa().jwk();
    oaep["alg"] = "RSA-OAEP".into();
    let mut broken = rsa().jwk();
    broken["n"] = "***".into();
    let secret = serde_json::json!({ "kty": "oct", "kid": "oct", "k": "c2VjcmV0" });
    let p384 = Key::new("p384", jsonwebtoken::Algorithm::ES384).jwk();
    for content in [
        String::new(),
        "x".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{\"keys\":{}}".to_owned(),
        rsa().jwk().to_string(),
        rsa().pair.public_key_pem(),
        jwks(&[]),
        jwks(&[5.into(), "x".into()]),
        jwks(&[encrypts]),
        jwks(&[wraps]),
        jwks(&[oaep]),
        jwks(&[broken]),
        jwks(&[secret]),
        // A key whose algorithm is not allowed.
        jwks(&[p384]),
    ] {
        let file = KeyFile::new(&[]);
        file.replace(&content);
        let error = Auth::load(file.settings()).unwrap_err();
        assert!(
            matches!(error, AuthError::Keys { .. }),
            "{content}: {error}"
        );
    }
}

#[test]
fn invalid_scope_name_is_rejected() {
    for name in ["", " ", "a b", "a\"b", "a\n", "ñ", "a\\b", "\u{7f}"] {
        let error = name.parse::<Scope>().unwrap_err();
        assert!(
            matches!(&error, AuthError::Scope(value) if value == name),
            "{error}"
        );
    }
}

/// An empty issuer or audience would match tokens with empty claims.
#[test]
fn empty_issuer_or_audience_is_rejected() {
    let file = KeyFile::new(&[rsa().jwk()]);
    for (issuer, audience) in [("", AUDIENCE), (ISSUER, "")] {
        let settings = AuthSettings {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            ..file.settings()
        };
        assert!(Auth::load(settings).is_err(), "{issuer:?} {audience:?}");
    }
}
