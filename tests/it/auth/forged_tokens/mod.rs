//! The table of tokens that let nobody in, all refused in the same words, and of those that do.

use std::cell::RefCell;

use http::{HeaderMap, HeaderValue};
use jsonwebtoken::Algorithm::{
    self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, RS256, RS384, RS512,
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;
use tonic::Code;

use crate::support::{
    TestServer,
    auth::{
        AUDIENCE, EMPTY, HeaderClient, INVALID_TOKEN, ISSUER, KeyFile, bearer_value, challenge,
        code, now, reason, require_tokens, server_with_key, valid_token,
    },
    issuer::{Behavior, Issuer},
    methods::{LOTS_OF_GREETINGS, SAY_HELLO, WRITE, WRITE_STREAM},
    signing::{Key, Token, base64, rsa},
    tree, with_timeout,
};

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

const SECRET: &[u8] = b"a shared secret of thirty-two bytes";

/// The pairs that the tables are made with.
struct Keys {
    ec: Key,
    ed: Key,
    /// Of the name of the one of RSA.
    false_rsa: Key,
    false_ec: Key,
}

impl Keys {
    fn new() -> Self {
        Self {
            ec: Key::new("ec", ES256),
            ed: Key::new("ed", EdDSA),
            false_rsa: rsa().double(),
            false_ec: Key::new("rsa", ES256),
        }
    }

    /// All of RSA, P-256 and Ed25519, and a shared secret.
    fn file(&self) -> KeyFile {
        let secret = json!({ "kty": "oct", "kid": "oct", "k": base64(SECRET) });
        KeyFile::new(&[rsa().jwk(), self.ec.jwk(), self.ed.jwk(), secret])
    }
}

/// A row: its name, and all values of `authorization`.
type Row = (String, Vec<HeaderValue>);

fn row(name: impl Into<String>, authorization: &[&str]) -> Row {
    let values = authorization.iter();
    let values = values.map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap());
    (name.into(), values.collect())
}

fn token(name: impl Into<String>, token: &str) -> Row {
    row(name, &[&format!("Bearer {token}")])
}

fn bad_tokens(keys: &Keys, attacker: &Issuer) -> Vec<Row> {
    [
        no_algorithm(),
        other_algorithms(keys),
        signatures(keys),
        parties(keys),
        times(),
        duplicates(),
        shapes(),
        schemes(),
        names_of_keys(),
        headers(keys, attacker),
    ]
    .concat()
}

fn no_algorithm() -> Vec<Row> {
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
            rows.push(token(
                format!("alg {alg}, signature {signature:.3}"),
                &forged,
            ));
        }
    }
    for signature in ["", &copied] {
        let forged = valid_token()
            .without_header("alg")
            .with_signature(signature);
        rows.push(token("no alg", &forged));
    }
    rows
}

fn other_algorithms(keys: &Keys) -> Vec<Row> {
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
                rows.push(token(
                    format!("{algorithm:?} with {name} for {kid}"),
                    &forged,
                ));
            }
        }
    }
    let ec = Token::new(&keys.ec);
    let named = |token: Token, alg: Algorithm| token.header("alg", &format!("\"{alg:?}\""));
    rows.extend([
        token(
            "ES256 for the key of RSA",
            &ec.clone().header("kid", "\"rsa\"").sign(&keys.ec),
        ),
        token(
            "RS256 for the key of P-256",
            &valid_token().header("kid", "\"ec\"").sign(rsa()),
        ),
        token(
            "RS256 for Ed25519",
            &valid_token().header("kid", "\"ed\"").sign(rsa()),
        ),
        token(
            "says ES256, signed RS256",
            &named(valid_token(), ES256).sign(rsa()),
        ),
        token(
            "says RS256, signed ES256",
            &named(ec.clone(), RS256).sign(&keys.ec),
        ),
        token("says EdDSA, signed ES256", &named(ec, EdDSA).sign(&keys.ec)),
        token(
            "says RS256, signed PS256",
            &valid_token().sign_with(rsa(), PS256),
        ),
        token("ES384", &{
            let key = Key::new("ec", ES384);
            Token::new(&key).sign(&key)
        }),
    ]);
    for algorithm in [PS256, RS384, RS512] {
        let forged = named(valid_token(), algorithm).sign_with(rsa(), algorithm);
        rows.push(token(format!("{algorithm:?} is not allowed"), &forged));
    }
    rows
}

fn signatures(keys: &Keys) -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let (message, signature) = signed.rsplit_once('.').unwrap();
    let other = valid_token().claim("sub", "\"other\"").sign(rsa());
    let (other_message, other_signature) = other.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let (_, other_claims) = other_message.split_once('.').unwrap();
    let ed = Token::new(&keys.ed).sign(&keys.ed);
    let ec = Token::new(&keys.ec).sign(&keys.ec);
    let zeros = Token::new(&keys.ec).with_signature(&base64(&[0; 64]));
    let half = base64(&[[1; 32], [0; 32]].concat());
    // The last character stands for two bits, and four that have to be zero.
    let last = non_canonical(&signed);
    vec![
        token("no signature", message),
        token("empty signature", &format!("{message}.")),
        token(
            "half a signature",
            &format!("{message}.{}", &signature[..171]),
        ),
        token("a signature short of a byte", &signed[..signed.len() - 2]),
        token(
            "a signature short of a character",
            &signed[..signed.len() - 1],
        ),
        token("a longer signature", &format!("{signed}AA")),
        token("swapped signature", &format!("{message}.{other_signature}")),
        token(
            "swapped claims",
            &format!("{header}.{other_claims}.{signature}"),
        ),
        token(
            "swapped header",
            &format!(
                "{}.{claims}.{signature}",
                base64(br#"{"typ":"at+jwt","alg":"RS256","kid":"ec"}"#)
            ),
        ),
        token("bit flipped", &format!("{message}.{}", flipped(signature))),
        token("bit flipped, P-256", &flip_last_part(&ec)),
        token("bit flipped, Ed25519", &flip_last_part(&ed)),
        token("signature not canonical", &last),
        token("signature not canonical, P-256", &non_canonical(&ec)),
        token("signature not canonical, Ed25519", &non_canonical(&ed)),
        token("signature padded", &format!("{signed}==")),
        token(
            "signature in the other alphabet",
            &format!("{message}.{}", other_alphabet(signature)),
        ),
        token("header padded", &format!("{header}=.{claims}.{signature}")),
        token("claims padded", &format!("{header}.{claims}=.{signature}")),
        token("all zeros, P-256", &zeros),
        token(
            "s is zero, P-256",
            &Token::new(&keys.ec).with_signature(&half),
        ),
        token(
            "another key of that name",
            &valid_token().sign(&keys.false_rsa),
        ),
        token(
            "another kind of key of that name",
            &Token::new(&keys.false_ec).sign(&keys.false_ec),
        ),
        token(
            "another key, none named",
            &valid_token().without_header("kid").sign(&keys.false_rsa),
        ),
        token(
            "the claims of a token that nobody signed",
            &format!("{message}.{}", base64(&[7; 256])),
        ),
    ]
}

fn flipped(signature: &str) -> String {
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &signature[1..])
}

fn flip_last_part(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", flipped(signature))
}

/// The same bytes, spelled another way.
fn non_canonical(token: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut token = token.as_bytes().to_vec();
    let last = token.last_mut().unwrap();
    let place = ALPHABET.iter().position(|c| c == last).unwrap();
    *last = ALPHABET[place + 1];
    String::from_utf8(token).unwrap()
}

/// A signature that has to be spelled otherwise with `+` and `/`.
fn other_alphabet(signature: &str) -> String {
    let other = signature.replace('-', "+").replace('_', "/");
    match other == signature {
        true => format!("+{}", &signature[1..]),
        false => other,
    }
}

fn parties(keys: &Keys) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut claim = |name: &str, values: &[String]| {
        for value in values {
            let signed = valid_token().claim(name, value).sign(rsa());
            rows.push(token(format!("{name}: {value}"), &signed));
        }
        rows.push(token(
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
        rows.push(token(format!("scope: {value}"), &signed));
    }
    // All is right, but for who says so.
    let stranger = Key::new("stranger", ES256);
    rows.push(token(
        "the key of another issuer",
        &Token::new(&stranger).sign(&stranger),
    ));
    let nameless = Token::new(&keys.false_ec).without_header("kid");
    rows.push(token(
        "the same without its name",
        &nameless.sign(&keys.false_ec),
    ));
    for claims in ["[]", "null", "5", "\"\"", "", "{", "{}", "\u{feff}{}"] {
        let claims = base64(claims.as_bytes());
        let header = valid_token().message();
        let header = header.split('.').next().unwrap();
        let message = format!("{header}.{claims}");
        rows.push(token(format!("claims {claims:?}"), &sign_text(&message)));
    }
    rows
}

/// Any text, signed by the key of the issuer.
fn sign_text(message: &str) -> String {
    let private = jsonwebtoken::EncodingKey::from_rsa_der(&rsa().pair.serialized_der()[26..]);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &private, RS256);
    format!("{message}.{}", signature.unwrap())
}

fn times() -> Vec<Row> {
    let now = now();
    let mut rows = vec![
        token("no exp", &valid_token().without_claim("exp").sign(rsa())),
        token("no iat", &valid_token().without_claim("iat").sign(rsa())),
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
        // Long enough beyond the leeway for a slow test.
        ("nbf", future(90)),
        ("iat", future(90)),
        ("nbf", future(90) + ".5"),
    ]);
    for (name, value) in cases {
        let signed = valid_token().claim(name, &value).sign(rsa());
        rows.push(token(format!("{name}: {value}"), &signed));
    }
    rows
}

fn duplicates() -> Vec<Row> {
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
        rows.push(token(format!("{name} twice"), &first));
        // Another spelling of the same name.
        let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        let claims =
            valid_token()
                .claim_text()
                .replacen('{', &format!("{{\"{escaped}\":{value},"), 1);
        let header = valid_token().message();
        let header = header.split('.').next().unwrap().to_owned();
        let signed = sign_text(&format!("{header}.{}", base64(claims.as_bytes())));
        rows.push(token(format!("{name} twice, once escaped"), &signed));
    }
    let nbf = valid_token()
        .claim("nbf", "0")
        .claim_before("nbf", "null")
        .sign(rsa());
    rows.push(token("nbf twice", &nbf));
    for (name, value) in [
        ("alg", "\"none\""),
        ("alg", "\"RS256\""),
        ("kid", "\"rsa\""),
        ("kid", "\"other\""),
        ("typ", "\"JWT\""),
        ("typ", "\"at+jwt\""),
    ] {
        let first = valid_token().header_before(name, value).sign(rsa());
        rows.push(token(format!("{name} {value} first"), &first));
    }
    rows
}

fn shapes() -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let parts: Vec<_> = signed.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("a token has three parts")
    };
    let jwe = base64(br#"{"alg":"RSA-OAEP","enc":"A256GCM","typ":"at+jwt","kid":"rsa"}"#);
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut rows = vec![
        token("a dot in front", &format!(".{signed}")),
        token("a dot behind", &format!("{signed}.")),
        token("four parts", &format!("{signed}.{signature}")),
        token("a token in a token", &format!("{signed}.{signed}")),
        token(
            "five parts",
            &format!("{jwe}.{claims}.{claims}.{claims}.{claims}"),
        ),
        token("encrypted", &format!("{jwe}.{claims}.{signature}")),
        token("an empty part", &format!("{header}..{signature}")),
        token("no header", &format!(".{claims}.{signature}")),
        token("empty", ""),
        token("a space inside", &format!("{header}. {claims}.{signature}")),
        token(
            "a space at a dot",
            &format!("{header} .{claims}.{signature}"),
        ),
        token("a tab inside", &format!("{header}.\t{claims}.{signature}")),
        token("something behind", &format!("{signed} x")),
        token("an attribute behind", &format!("{signed}, realm=\"x\"")),
        token("quoted", &format!("\"{signed}\"")),
        token("not of ASCII", &format!("{header}.{claims}.{signature}é")),
        token("JSON", &valid_token().claim_text()),
        token("an opaque token", "2YotnFZFEjr1zCsicMWpAA"),
        token(
            "a header in UTF-16",
            &format!("{}.{claims}.{signature}", base64(&utf16)),
        ),
    ];
    for dots in 1..6 {
        rows.push(token(format!("{dots} dots"), &".".repeat(dots)));
    }
    for length in [LONGEST + 1, LONGEST + 2, LONGEST + 1000] {
        rows.push(token(format!("{length} bytes"), &of_length(length)));
    }
    rows
}

/// A good token of exactly this length.
fn of_length(length: usize) -> String {
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

fn schemes() -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let basic = base64(b"somebody:secret");
    let bearer = format!("Bearer {signed}");
    vec![
        row("no header", &[]),
        row("an empty header", &[""]),
        row("no scheme", &[&signed]),
        row("Basic", &[&format!("Basic {basic}")]),
        row("Basic with the token", &[&format!("Basic {signed}")]),
        row("DPoP", &[&format!("DPoP {signed}")]),
        row("two spaces", &[&format!("Bearer  {signed}")]),
        row("a tab", &[&format!("Bearer\t{signed}")]),
        row("no space", &[&format!("Bearer{signed}")]),
        row("a colon", &[&format!("Bearer: {signed}")]),
        row("the scheme alone", &["Bearer"]),
        row("the scheme and a space", &["Bearer "]),
        row("the scheme twice", &[&format!("Bearer Bearer {signed}")]),
        row("two good ones", &[&bearer, &bearer]),
        row("a bad one and a good one", &["Bearer x", &bearer]),
        row("a good one and a bad one", &[&bearer, "Bearer x"]),
        row("a good one and an empty one", &[&bearer, ""]),
        row(
            "a good one and Basic",
            &[&bearer, &format!("Basic {basic}")],
        ),
        row("two in one", &[&format!("{bearer}, {bearer}")]),
        row(
            "two in one, with one scheme",
            &[&format!("{bearer},{signed}")],
        ),
    ]
}

fn names_of_keys() -> Vec<Row> {
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
        rows.push(token(format!("kid {kid:.30?}"), &signed));
    }
    for kid in ["5", "true", "[\"rsa\"]", "{}"] {
        let signed = valid_token().header("kid", kid).sign(rsa());
        rows.push(token(format!("kid {kid}"), &signed));
    }
    for algorithm in [HS256, HS384, HS512] {
        let named = valid_token().header("alg", &format!("\"{algorithm:?}\""));
        let forged = named
            .clone()
            .header("kid", "\"oct\"")
            .sign_hmac(SECRET, algorithm);
        rows.push(token(
            format!("{algorithm:?} with the secret in the set"),
            &forged,
        ));
        let forged = named.without_header("kid").sign_hmac(SECRET, algorithm);
        rows.push(token(
            format!("{algorithm:?} with that, not named"),
            &forged,
        ));
    }
    rows
}

fn headers(keys: &Keys, attacker: &Issuer) -> Vec<Row> {
    let mut rows = Vec::new();
    let url = json!(format!("{}/keys", attacker.url())).to_string();
    let certificate = rcgen::CertificateParams::default();
    let certificate = certificate.self_signed(&keys.false_rsa.pair).unwrap();
    use base64::Engine;
    let certificate = base64::engine::general_purpose::STANDARD.encode(certificate.der());
    for (name, value) in [
        ("jku", url.clone()),
        ("x5u", url),
        ("jwk", keys.false_rsa.jwk().to_string()),
        ("x5c", json!([certificate]).to_string()),
    ] {
        for kid in ["\"rsa\"", "\"attacker\"", ""] {
            let forged = valid_token().header(name, &value).header("kid", kid);
            let forged = match kid {
                "" => forged.without_header("kid"),
                _ => forged,
            };
            let forged = forged.sign(&keys.false_rsa);
            rows.push(token(format!("{name} and {kid}"), &forged));
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
        rows.push(token(format!("{name}: {value}"), &signed));
    }
    // With `b64` as it is meant: the claims are signed as they are.
    rows.push(token("b64 as it is meant", &unencoded()));
    rows.push(token(
        "no typ",
        &valid_token().without_header("typ").sign(rsa()),
    ));
    rows
}

/// RFC 7797.
fn unencoded() -> String {
    let token = valid_token()
        .header("b64", "false")
        .header("crit", "[\"b64\"]");
    let message = token.message();
    let header = message.split('.').next().unwrap();
    let signed = sign_text(&format!("{header}.{}", token.claim_text()));
    let signature = signed.rsplit('.').next().unwrap();
    format!("{message}.{signature}")
}

/// What a status says, without what differs from call to call.
fn status(mut headers: HeaderMap) -> HeaderMap {
    headers.remove("x-request-id");
    headers.remove("date");
    headers
}

#[tokio::test]
async fn a_token_that_is_no_good_is_refused_and_nobody_learns_why() {
    let keys = Keys::new();
    let attacker = Issuer::start(Behavior::serve_keys(&[keys.false_rsa.jwk()])).await;
    let server = TestServer::start_with(require_tokens(keys.file().settings()));
    let before = tree(server.root());
    let mut caller = HeaderClient::connect(&server).await;
    let expected = status(caller.call_without_message(SAY_HELLO, &[]).await);
    assert_eq!(code(&expected), Code::Unauthenticated);
    assert_eq!(reason(&expected), "UNAUTHENTICATED");
    assert_eq!(challenge(&expected), INVALID_TOKEN);
    let rows = bad_tokens(&keys, &attacker);
    assert!(rows.len() > 300, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (name, authorization) in &rows {
        // One that lets in does not keep the others waiting.
        let answered = status(caller.call(SAY_HELLO, authorization, EMPTY).await);
        if answered != expected {
            wrong.push(format!("{name}: {answered:?}"));
            continue;
        }
        for path in [SAY_HELLO, LOTS_OF_GREETINGS, WRITE_STREAM] {
            let answered = status(caller.call_without_message(path, authorization).await);
            if answered != expected {
                wrong.push(format!("{name} at {path}: {answered:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tree(server.root()), before);
    assert_eq!(attacker.request_count(), 0, "a token had something fetched");
}

/// What comes with it may be anything: nobody looks.
#[tokio::test]
async fn nothing_of_a_call_is_read_before_its_token() {
    let server = server_with_key(rsa());
    let mut caller = HeaderClient::connect(&server).await;
    let expected = status(caller.call_without_message(SAY_HELLO, &[]).await);
    let too_large = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 64]].concat();
    let gzip = [&[1, 0, 0, 0, 3][..], b"\xff\xff\xff"].concat();
    for body in [
        &too_large[..],
        &gzip,
        b"\x07",
        &[EMPTY, EMPTY].concat(),
        b"",
    ] {
        for path in [SAY_HELLO, LOTS_OF_GREETINGS, WRITE_STREAM, WRITE] {
            let answered = caller.call(path, &[bearer_value("x")], body).await;
            assert_eq!(status(answered), expected);
        }
    }
}

#[tokio::test]
async fn a_token_of_a_megabyte_does_no_harm() {
    let server = server_with_key(rsa());
    let signed = valid_token()
        .claim("y", &format!("\"{}\"", "y".repeat(750_000)))
        .sign(rsa());
    let caller = HeaderClient::connect(&server).await;
    let request = caller.request(SAY_HELLO, &[bearer_value(&signed)]);
    let mut connection = caller.connection.clone();
    if let Ok((answer, _)) = connection.send_request(request, true)
        && let Ok(answer) = with_timeout(answer).await
    {
        assert!(!answer.status().is_success() || code(answer.headers()) != Code::Ok);
    }
    let mut caller = HeaderClient::connect(&server).await;
    assert_eq!(
        caller.greeting_code_with(&valid_token().sign(rsa())).await,
        Code::Ok
    );
}

#[tokio::test]
async fn a_good_token_lets_in_however_it_is_spelled() {
    let keys = Keys::new();
    let (ec, ed) = (&keys.ec, &keys.ed);
    let signed = valid_token().sign(rsa());
    let audience = |audience: serde_json::Value| {
        valid_token()
            .claim("aud", &audience.to_string())
            .sign(rsa())
    };
    let times = |offset: f64| format!("{:.3}", now() as f64 + offset);
    let mut rows = vec![
        token("RS256", &signed),
        token("ES256", &Token::new(ec).sign(ec)),
        token("EdDSA", &Token::new(ed).sign(ed)),
        row("lower case", &[&format!("bearer {signed}")]),
        row("upper case", &[&format!("BEARER {signed}")]),
        token(
            "one of several audiences",
            &audience(json!(["other", AUDIENCE])),
        ),
        token("a list of one audience", &audience(json!([AUDIENCE]))),
        token("a fraction of a second", &{
            let token = valid_token()
                .claim("exp", &times(600.5))
                .claim("iat", &times(-0.5));
            token.claim("nbf", &times(-0.5)).sign(rsa())
        }),
        token(
            "an exponent",
            &valid_token().claim("exp", "25e10").sign(rsa()),
        ),
        token(
            "the last second there is",
            &valid_token().claim("exp", "253402300799").sign(rsa()),
        ),
        token(
            "nbf",
            &valid_token()
                .claim("nbf", &(now() - 5).to_string())
                .sign(rsa()),
        ),
        token(
            "over, within the leeway",
            &valid_token().claim("exp", &times(-15.0)).sign(rsa()),
        ),
        token(
            "not yet, within the leeway",
            &valid_token().claim("nbf", &times(20.0)).sign(rsa()),
        ),
        token(
            "of a clock ahead",
            &valid_token().claim("iat", &times(20.0)).sign(rsa()),
        ),
        token("an old one", &valid_token().claim("iat", "0").sign(rsa())),
        token(
            "no client_id",
            &valid_token()
                .without_claim("client_id")
                .without_claim("jti")
                .sign(rsa()),
        ),
        token(
            "claims nobody knows",
            &valid_token().claim("x", "{\"y\":[null]}").sign(rsa()),
        ),
        token(
            "headers nobody knows",
            &valid_token().header("x", "{\"y\":[null]}").sign(rsa()),
        ),
        token("8 KiB", &of_length(LONGEST)),
        token(
            "where its key is said to be",
            &valid_token()
                .header("jku", "\"http://127.0.0.1:1\"")
                .sign(rsa()),
        ),
    ];
    for kind in [
        "AT+JWT",
        "application/at+jwt",
        "APPLICATION/at+JWT",
        "at+jwt",
    ] {
        let signed = valid_token()
            .header("typ", &format!("{kind:?}"))
            .sign(rsa());
        rows.push(token(kind, &signed));
    }
    for key in [rsa(), ec, ed] {
        for kid in [None, Some("null")] {
            let token_of_key = Token::new(key).without_header("kid");
            let token_of_key =
                kid.map_or(token_of_key.clone(), |kid| token_of_key.header("kid", kid));
            rows.push(token(
                format!("{:?}, kid {kid:?}", key.algorithm),
                &token_of_key.sign(key),
            ));
        }
    }
    let server = TestServer::start_with(require_tokens(keys.file().settings()));
    let mut caller = HeaderClient::connect(&server).await;
    for (name, authorization) in &rows {
        // Also when it has been seen before.
        for _ in 0..2 {
            assert_eq!(
                caller.greeting_code(authorization).await,
                Code::Ok,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn other_algorithms_and_types_are_taken_where_they_are_configured() {
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

/// A key is good for what it says it is for.
#[tokio::test]
async fn a_key_with_an_algorithm_of_its_own_verifies_no_other() {
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

/// What can become of a character on its way.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(u8),
    Insert(u8),
    Delete,
    Repeat,
}

#[test]
fn no_token_but_the_one_that_was_signed_lets_in() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = server_with_key(rsa());
    let caller = runtime.block_on(HeaderClient::connect(&server));
    let caller = RefCell::new(caller);
    let signed = valid_token().sign(rsa());
    let mutation = prop_oneof![
        (0..7_u8).prop_map(Mutation::Flip),
        (b'!'..=b'~').prop_map(Mutation::Insert),
        Just(Mutation::Delete),
        Just(Mutation::Repeat),
    ];
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), mutation), 1..4);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1000));
    let outcome = runner.run(&mutations, |mutations| {
        let mut text = signed.clone().into_bytes();
        for (index, mutation) in mutations {
            let place = index.index(text.len());
            match mutation {
                Mutation::Flip(bit) => text[place] ^= 1 << bit,
                Mutation::Insert(byte) => text.insert(place, byte),
                Mutation::Delete => drop(text.remove(place)),
                Mutation::Repeat => text.insert(place, text[place]),
            }
        }
        let header = [b"Bearer ", &text[..]].concat();
        let Ok(header) = HeaderValue::from_bytes(&header) else {
            return Ok(());
        };
        let wanted = match text == signed.as_bytes() {
            true => Code::Ok,
            false => Code::Unauthenticated,
        };
        prop_assert_eq!(
            runtime.block_on(caller.borrow_mut().greeting_code(&[header])),
            wanted
        );
        Ok(())
    });
    outcome.unwrap();
}
