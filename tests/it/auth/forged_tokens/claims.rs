//! Forged tokens: a claim is missing, wrong, repeated, or outside its time.

use crate::support::{
    auth::{AUDIENCE, ISSUER, now, valid_token},
    signing::{Key, Token, base64, rsa},
    token_rows::{KeyPairs, Row, sign_text},
};
use jsonwebtoken::Algorithm::ES256;
use serde_json::json;

pub(super) fn with_wrong_parties(keys: &KeyPairs) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut claim = |name: &str, values: &[String]| {
        for value in values {
            let signed = valid_token().claim(name, value).sign(rsa());
            rows.push(Row::bearer(format!("{name}: {value}"), &signed));
        }
        rows.push(Row::bearer(
            format!("no {name}"),
            &valid_token().without_claim(name).sign(rsa()),
        ));
    };
    let text = |text: &str| json!(text).to_string();
    let (slash, upper) = (format!("{ISSUER}/"), ISSUER.to_uppercase());
    let odd = ["null", "0", "true", "{}", "\"\"", "[]"].map(str::to_owned);
    let of_issuer = [
        text("https://other.example"),
        text(&slash),
        text(&upper),
        text(&format!("{ISSUER} ")),
        text(&ISSUER[..ISSUER.len() - 1]),
        json!([ISSUER]).to_string(),
    ];
    claim("iss", &[&of_issuer[..], &odd].concat());
    let of_audience = [
        text("https://other.example"),
        text(&format!("{AUDIENCE}/")),
        text(&AUDIENCE[..AUDIENCE.len() - 1]),
        text(&format!("{AUDIENCE} https://other.example")),
        json!(["https://other.example"]).to_string(),
        json!([AUDIENCE, 5]).to_string(),
        json!([[AUDIENCE]]).to_string(),
        json!({ AUDIENCE: true }).to_string(),
    ];
    claim("aud", &[&of_audience[..], &odd].concat());
    claim("sub", &odd);
    for value in ["null", "5", "[\"greeter\"]", "{}"] {
        let signed = valid_token().claim("scope", value).sign(rsa());
        rows.push(Row::bearer(format!("scope: {value}"), &signed));
    }
    // Valid claims, signed by another key.
    let stranger = Key::new("stranger", ES256);
    rows.push(Row::bearer(
        "the key of another issuer",
        &Token::new(&stranger).sign(&stranger),
    ));
    let nameless = Token::new(&keys.attacker_ec).without_header("kid");
    rows.push(Row::bearer(
        "the same without its name",
        &nameless.sign(&keys.attacker_ec),
    ));
    for claims in ["[]", "null", "5", "\"\"", "", "{", "{}", "\u{feff}{}"] {
        let claims = base64(claims.as_bytes());
        let header = valid_token().message();
        let header = header.split('.').next().unwrap();
        let message = format!("{header}.{claims}");
        rows.push(Row::bearer(
            format!("claims {claims:?}"),
            &sign_text(&message),
        ));
    }
    rows
}

pub(super) fn outside_their_time() -> Vec<Row> {
    let now = now();
    let mut rows = vec![
        Row::bearer("no exp", &valid_token().without_claim("exp").sign(rsa())),
        Row::bearer("no iat", &valid_token().without_claim("iat").sign(rsa())),
    ];
    let past = |seconds: u64| (now - seconds).to_string();
    let future = |seconds: u64| (now + seconds).to_string();
    let odd = [
        "null",
        "true",
        "-1",
        "-1e300",
        "1e300",
        "1e999",
        "18446744073709551615",
        "99999999999999999999999",
        "253402300800",
        "[]",
        "{}",
        "\"\"",
        "NaN",
        "Infinity",
        "\"NaN\"",
    ];
    let text = format!("\"{}\"", now + 10);
    let list = format!("[{}]", now + 10);
    let odd = odd.map(str::to_owned).into_iter().chain([text, list]);
    let cases = odd.flat_map(|value| ["exp", "iat", "nbf"].map(|name| (name, value.clone())));
    let cases = cases.chain([
        ("exp", past(31)),
        ("exp", past(30)),
        ("exp", "0".to_owned()),
        ("exp", format!("{}.5", now - 31)),
        ("exp", (u128::from(now + 600) * 1000).to_string()),
        // Far enough beyond the leeway for a slow test.
        ("nbf", future(90)),
        ("iat", future(90)),
        ("nbf", future(90) + ".5"),
    ]);
    for (name, value) in cases {
        let signed = valid_token().claim(name, &value).sign(rsa());
        rows.push(Row::bearer(format!("{name}: {value}"), &signed));
    }
    rows
}

pub(super) fn with_duplicates() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, value) in [
        ("exp", (now() - 3600).to_string()),
        ("exp", (now() + 3600).to_string()),
        ("aud", "\"other\"".to_owned()),
        ("aud", json!(AUDIENCE).to_string()),
        ("sub", "\"other\"".to_owned()),
        ("iss", json!(ISSUER).to_string()),
        ("iat", "0".to_owned()),
        ("scope", "\"\"".to_owned()),
        ("jti", "\"2\"".to_owned()),
        ("client_id", "\"other\"".to_owned()),
    ] {
        let first = valid_token().claim_before(name, &value).sign(rsa());
        rows.push(Row::bearer(format!("{name} twice"), &first));
        // The same name with an escaped character.
        let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        let claims =
            valid_token()
                .claim_text()
                .replacen('{', &format!("{{\"{escaped}\":{value},"), 1);
        let header = valid_token().message();
        let header = header.split('.').next().unwrap().to_owned();
        let signed = sign_text(&format!("{header}.{}", base64(claims.as_bytes())));
        rows.push(Row::bearer(format!("{name} twice, once escaped"), &signed));
    }
    let nbf = valid_token()
        .claim("nbf", "0")
        .claim_before("nbf", "null")
        .sign(rsa());
    rows.push(Row::bearer("nbf twice", &nbf));
    for (name, value) in [
        ("alg", "\"none\""),
        ("alg", "\"RS256\""),
        ("kid", "\"rsa\""),
        ("kid", "\"other\""),
        ("typ", "\"JWT\""),
        ("typ", "\"at+jwt\""),
    ] {
        let first = valid_token().header_before(name, value).sign(rsa());
        rows.push(Row::bearer(format!("{name} {value} first"), &first));
    }
    rows
}
