//! Forged tokens: the header names an unknown key, brings its own key, or has a type or an extension that
//! is not accepted.

use crate::support::{
    auth::valid_token,
    issuer::Issuer,
    signing::rsa,
    token_rows::{KeyPairs, Row, SECRET, sign_text},
};
use jsonwebtoken::Algorithm::{HS256, HS384, HS512};
use serde_json::json;

pub(super) fn with_unknown_key_id() -> Vec<Row> {
    let mut rows = Vec::new();
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "' OR '1'='1",
        "'; DROP TABLE keys; --",
        "rsa\u{0}",
        "\u{0}",
        "\n\r\t\u{1b}[2J",
        "",
        "RSA",
        "rsa ",
        "oct",
        "http://127.0.0.1/keys",
        &"x".repeat(5000),
    ] {
        let signed = valid_token()
            .header("kid", &json!(kid).to_string())
            .sign(rsa());
        rows.push(Row::bearer(format!("kid {kid:.30?}"), &signed));
    }
    for kid in ["5", "true", "[\"rsa\"]", "{}"] {
        let signed = valid_token().header("kid", kid).sign(rsa());
        rows.push(Row::bearer(format!("kid {kid}"), &signed));
    }
    for algorithm in [HS256, HS384, HS512] {
        let named = valid_token().header("alg", &format!("\"{algorithm:?}\""));
        let forged = named
            .clone()
            .header("kid", "\"oct\"")
            .sign_hmac(SECRET, algorithm);
        rows.push(Row::bearer(
            format!("{algorithm:?} with the secret in the set"),
            &forged,
        ));
        let forged = named.without_header("kid").sign_hmac(SECRET, algorithm);
        rows.push(Row::bearer(
            format!("{algorithm:?} with that, not named"),
            &forged,
        ));
    }
    rows
}

pub(super) fn with_hostile_header(keys: &KeyPairs, attacker: &Issuer) -> Vec<Row> {
    let mut rows = Vec::new();
    let url = json!(format!("{}/keys", attacker.url())).to_string();
    let certificate = rcgen::CertificateParams::default();
    let certificate = certificate.self_signed(&keys.attacker_rsa.pair).unwrap();
    use base64::Engine;
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    for (name, value) in [
        ("jku", url.clone()),
        ("x5u", url),
        ("jwk", keys.attacker_rsa.jwk().to_string()),
        ("x5c", json!([certificate]).to_string()),
    ] {
        for kid in ["\"rsa\"", "\"attacker\"", ""] {
            let forged = valid_token().header(name, &value).header("kid", kid);
            let forged = match kid {
                "" => forged.without_header("kid"),
                _ => forged,
            };
            let forged = forged.sign(&keys.attacker_rsa);
            rows.push(Row::bearer(format!("{name} and {kid}"), &forged));
        }
    }
    for (name, value) in [
        ("crit", "[\"exp\"]"),
        ("crit", "[]"),
        ("crit", "[\"b64\"]"),
        ("crit", "\"exp\""),
        ("b64", "false"),
        ("zip", "\"DEF\""),
        ("enc", "\"A256GCM\""),
        ("typ", "\"JWT\""),
        ("typ", "\"\""),
        ("typ", "\"at\""),
        ("typ", "\"at+jwt \""),
        ("typ", "\"at+jwts\""),
        ("typ", "\"application/\""),
        ("typ", "\"application/application/at+jwt\""),
        ("typ", "\"text/at+jwt\""),
        ("typ", "\"id_token\""),
        ("typ", "\"application/jwt\""),
        ("typ", "null"),
        ("typ", "5"),
        ("typ", "[\"at+jwt\"]"),
    ] {
        let signed = valid_token().header(name, value).sign(rsa());
        rows.push(Row::bearer(format!("{name}: {value}"), &signed));
    }
    // With `b64` as RFC 7797 defines it, the claims are signed without base64url.
    rows.push(Row::bearer("b64 as it is meant", &sign_unencoded()));
    rows.push(Row::bearer(
        "no typ",
        &valid_token().without_header("typ").sign(rsa()),
    ));
    rows
}

/// Signs a token with an unencoded payload (RFC 7797).
fn sign_unencoded() -> String {
    let token = valid_token()
        .header("b64", "false")
        .header("crit", "[\"b64\"]");
    let message = token.message();
    let header = message.split('.').next().unwrap();
    let signed = sign_text(&format!("{header}.{}", token.claim_text()));
    let signature = signed.rsplit('.').next().unwrap();
    format!("{message}.{signature}")
}
