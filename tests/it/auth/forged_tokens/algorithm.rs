//! Forged tokens: `alg` is `none`, or is not the algorithm of the key.

use crate::support::{
    TestServer,
    auth::{HeaderClient, KeyFile, require_tokens, valid_token},
    signing::{Key, Token, rsa},
    token_rows::{KeyPairs, Row},
};
use jsonwebtoken::Algorithm::{
    self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, RS256, RS384, RS512,
};
use serde_json::json;
use tonic::Code;

pub(super) fn without_algorithm() -> Vec<Row> {
    let copied = valid_token().sign(rsa());
    let copied = copied.rsplit('.').next().unwrap().to_owned();
    let mut rows = Vec::new();
    for alg in [
        "\"none\"",
        "\"None\"",
        "\"NONE\"",
        "\"nOnE\"",
        "\"\"",
        "null",
        "0",
        "[]",
        "[\"RS256\"]",
        "{}",
        "true",
        "\"rs256\"",
        "\"RS256 \"",
    ] {
        for signature in ["", &copied] {
            let forged = valid_token().header("alg", alg).with_signature(signature);
            rows.push(Row::bearer(
                format!("alg {alg}, signature {signature:.3}"),
                &forged,
            ));
        }
    }
    for signature in ["", &copied] {
        let forged = valid_token()
            .without_header("alg")
            .with_signature(signature);
        rows.push(Row::bearer("no alg", &forged));
    }
    rows
}

pub(super) fn with_other_algorithm(keys: &KeyPairs) -> Vec<Row> {
    let mut rows = Vec::new();
    let pem = rsa().pair.public_key_pem();
    let der = rcgen::PublicKeyData::subject_public_key_info(&rsa().pair);
    let n = rsa().jwk()["n"].as_str().unwrap().to_owned();
    let jwk = rsa().jwk().to_string();
    for (name, secret) in [
        ("PEM of RSA", pem.as_bytes()),
        (
            "PEM of RSA without its last line feed",
            pem.trim_end().as_bytes(),
        ),
        ("DER of RSA", &der),
        ("key of RSA", rcgen::PublicKeyData::der_bytes(&rsa().pair)),
        ("n", n.as_bytes()),
        ("bytes of n", rsa().modulus()),
        ("JWK", jwk.as_bytes()),
        ("key of P-256", keys.ec.pair.public_key_raw()),
        ("PEM of P-256", keys.ec.pair.public_key_pem().as_bytes()),
        ("nothing", b""),
    ] {
        for algorithm in [HS256, HS384, HS512] {
            for kid in ["rsa", "ec"] {
                let forged = valid_token()
                    .header("alg", &format!("\"{algorithm:?}\""))
                    .header("kid", &format!("{kid:?}"))
                    .sign_hmac(secret, algorithm);
                rows.push(Row::bearer(
                    format!("{algorithm:?} with {name} for {kid}"),
                    &forged,
                ));
            }
        }
    }
    let ec = Token::new(&keys.ec);
    let with_alg = |token: Token, alg: Algorithm| token.header("alg", &format!("\"{alg:?}\""));
    rows.extend([
        Row::bearer(
            "ES256 for the key of RSA",
            &ec.clone().header("kid", "\"rsa\"").sign(&keys.ec),
        ),
        Row::bearer(
            "RS256 for the key of P-256",
            &valid_token().header("kid", "\"ec\"").sign(rsa()),
        ),
        Row::bearer(
            "RS256 for Ed25519",
            &valid_token().header("kid", "\"ed\"").sign(rsa()),
        ),
        Row::bearer(
            "says ES256, signed RS256",
            &with_alg(valid_token(), ES256).sign(rsa()),
        ),
        Row::bearer(
            "says RS256, signed ES256",
            &with_alg(ec.clone(), RS256).sign(&keys.ec),
        ),
        Row::bearer(
            "says EdDSA, signed ES256",
            &with_alg(ec, EdDSA).sign(&keys.ec),
        ),
        Row::bearer(
            "says RS256, signed PS256",
            &valid_token().sign_with(rsa(), PS256),
        ),
        Row::bearer("ES384", &{
            let key = Key::new("ec", ES384);
            Token::new(&key).sign(&key)
        }),
    ]);
    for algorithm in [PS256, RS384, RS512] {
        let forged = with_alg(valid_token(), algorithm).sign_with(rsa(), algorithm);
        rows.push(Row::bearer(
            format!("{algorithm:?} is not allowed"),
            &forged,
        ));
    }
    rows
}

#[tokio::test]
async fn configured_algorithms_and_type_are_accepted() {
    let settings = muxs::server::AuthSettings {
        algorithms: ["ES256", "PS256"].map(str::to_owned).to_vec(),
        token_type: "JWT".to_owned(),
        ..KeyFile::new(&[rsa().jwk()]).settings()
    };
    let ec = Key::new("ec", ES256);
    let file = KeyFile::new(&[rsa().jwk(), ec.jwk()]);
    let settings = muxs::server::AuthSettings {
        keys: file.settings().keys,
        ..settings
    };
    let server = TestServer::start_with(require_tokens(settings));
    let mut caller = HeaderClient::connect(&server).await;
    let jwt = |token: Token| token.header("typ", "\"JWT\"");
    let rs256 = jwt(valid_token()).sign(rsa());
    let ps256 = jwt(valid_token())
        .header("alg", "\"PS256\"")
        .sign_with(rsa(), PS256);
    let es256 = jwt(Token::new(&ec)).sign(&ec);
    let at_jwt = Token::new(&ec).sign(&ec);
    assert_eq!(
        caller.greeting_code_with(&rs256).await,
        Code::Unauthenticated
    );
    assert_eq!(caller.greeting_code_with(&ps256).await, Code::Ok);
    assert_eq!(caller.greeting_code_with(&es256).await, Code::Ok);
    assert_eq!(
        caller.greeting_code_with(&at_jwt).await,
        Code::Unauthenticated
    );
}

/// A JWK with `alg` verifies only tokens with that algorithm.
#[tokio::test]
async fn key_with_alg_verifies_only_that_algorithm() {
    let mut jwk = rsa().jwk();
    jwk["alg"] = json!("PS256");
    let file = KeyFile::new(&[jwk, Key::new("ec", ES256).jwk()]);
    let server = TestServer::start_with(require_tokens(file.settings()));
    let mut caller = HeaderClient::connect(&server).await;
    let signed = valid_token().sign(rsa());
    assert_eq!(
        caller.greeting_code_with(&signed).await,
        Code::Unauthenticated
    );
    let nameless = valid_token().without_header("kid").sign(rsa());
    assert_eq!(
        caller.greeting_code_with(&nameless).await,
        Code::Unauthenticated
    );
}
