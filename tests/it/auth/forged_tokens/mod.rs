//! Access tokens that are refused, all with the same answer, and tokens that are accepted.

mod algorithm;
mod claims;
mod encoding;
mod headers;
mod signature;

use crate::support::{
    TestServer,
    auth::{
        AUDIENCE, EMPTY, HeaderClient, INVALID_TOKEN, bearer_value, challenge, code, now, reason,
        require_tokens, server_with_key, valid_token,
    },
    issuer::{Behavior, Issuer},
    methods::{LOTS_OF_GREETINGS, SAY_HELLO, WRITE, WRITE_STREAM},
    signing::{Token, rsa},
    token_rows::{KeyPairs, MAX_TOKEN_BYTES, Row, token_of_length},
    tree,
};
use http::HeaderMap;
use serde_json::json;
use tonic::Code;

/// All rows of the table of refused tokens.
fn forged_rows(keys: &KeyPairs, attacker: &Issuer) -> Vec<Row> {
    [
        algorithm::without_algorithm(),
        algorithm::with_other_algorithm(keys),
        signature::rows(keys),
        claims::with_wrong_parties(keys),
        claims::outside_their_time(),
        claims::with_duplicates(),
        encoding::with_wrong_parts(),
        encoding::with_wrong_scheme(),
        headers::with_unknown_key_id(),
        headers::with_hostile_header(keys, attacker),
    ]
    .concat()
}

/// The headers of an answer without those that differ from call to call.
fn comparable_headers(mut headers: HeaderMap) -> HeaderMap {
    headers.remove("x-request-id");
    headers.remove("date");
    headers
}

#[tokio::test]
async fn forged_tokens_get_identical_refusals() {
    let keys = KeyPairs::generate();
    let attacker = Issuer::start(Behavior::serve_keys(&[keys.attacker_rsa.jwk()])).await;
    let server = TestServer::start_with(require_tokens(keys.key_file().settings()));
    let before = tree(server.root());
    let mut caller = HeaderClient::connect(&server).await;
    let expected = comparable_headers(caller.call_without_message(SAY_HELLO, &[]).await);
    assert_eq!(code(&expected), Code::Unauthenticated);
    assert_eq!(reason(&expected), "UNAUTHENTICATED");
    assert_eq!(challenge(&expected), INVALID_TOKEN);
    let rows = forged_rows(&keys, &attacker);
    assert!(rows.len() > 300, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for Row {
        name,
        authorization,
    } in &rows
    {
        // A row that is accepted by mistake does not hang the test.
        let answered = comparable_headers(caller.call(SAY_HELLO, authorization, EMPTY).await);
        if answered != expected {
            wrong.push(format!("{name}: {answered:?}"));
            continue;
        }
        for path in [SAY_HELLO, LOTS_OF_GREETINGS, WRITE_STREAM] {
            let answered =
                comparable_headers(caller.call_without_message(path, authorization).await);
            if answered != expected {
                wrong.push(format!("{name} at {path}: {answered:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(tree(server.root()), before);
    assert_eq!(attacker.request_count(), 0, "a token caused a request");
}

/// Even a malformed body is not read.
#[tokio::test]
async fn token_is_checked_before_the_request_body() {
    let server = server_with_key(rsa());
    let mut caller = HeaderClient::connect(&server).await;
    let expected = comparable_headers(caller.call_without_message(SAY_HELLO, &[]).await);
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
            assert_eq!(comparable_headers(answered), expected);
        }
    }
}

#[tokio::test]
async fn valid_tokens_are_accepted() {
    let keys = KeyPairs::generate();
    let (ec, ed) = (&keys.ec, &keys.ed);
    let signed = valid_token().sign(rsa());
    let audience = |audience: serde_json::Value| {
        valid_token()
            .claim("aud", &audience.to_string())
            .sign(rsa())
    };
    let times = |offset: f64| format!("{:.3}", now() as f64 + offset);
    let mut rows = vec![
        Row::bearer("RS256", &signed),
        Row::bearer("ES256", &Token::new(ec).sign(ec)),
        Row::bearer("EdDSA", &Token::new(ed).sign(ed)),
        Row::new("lower case", &[&format!("bearer {signed}")]),
        Row::new("upper case", &[&format!("BEARER {signed}")]),
        Row::bearer(
            "one of several audiences",
            &audience(json!(["other", AUDIENCE])),
        ),
        Row::bearer("a list of one audience", &audience(json!([AUDIENCE]))),
        Row::bearer("a fraction of a second", &{
            let token = valid_token()
                .claim("exp", &times(600.5))
                .claim("iat", &times(-0.5));
            token.claim("nbf", &times(-0.5)).sign(rsa())
        }),
        Row::bearer(
            "an exponent",
            &valid_token().claim("exp", "25e10").sign(rsa()),
        ),
        Row::bearer(
            "the last second there is",
            &valid_token().claim("exp", "253402300799").sign(rsa()),
        ),
        Row::bearer(
            "nbf",
            &valid_token()
                .claim("nbf", &(now() - 5).to_string())
                .sign(rsa()),
        ),
        Row::bearer(
            "over, within the leeway",
            &valid_token().claim("exp", &times(-15.0)).sign(rsa()),
        ),
        Row::bearer(
            "not yet, within the leeway",
            &valid_token().claim("nbf", &times(20.0)).sign(rsa()),
        ),
        Row::bearer(
            "of a clock ahead",
            &valid_token().claim("iat", &times(20.0)).sign(rsa()),
        ),
        Row::bearer("an old one", &valid_token().claim("iat", "0").sign(rsa())),
        Row::bearer(
            "no client_id",
            &valid_token()
                .without_claim("client_id")
                .without_claim("jti")
                .sign(rsa()),
        ),
        Row::bearer(
            "unknown claims",
            &valid_token().claim("x", "{\"y\":[null]}").sign(rsa()),
        ),
        Row::bearer(
            "unknown headers",
            &valid_token().header("x", "{\"y\":[null]}").sign(rsa()),
        ),
        Row::bearer("8 KiB", &token_of_length(MAX_TOKEN_BYTES)),
        Row::bearer(
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
        rows.push(Row::bearer(kind, &signed));
    }
    for key in [rsa(), ec, ed] {
        for kid in [None, Some("null")] {
            let token_of_key = Token::new(key).without_header("kid");
            let token_of_key =
                kid.map_or(token_of_key.clone(), |kid| token_of_key.header("kid", kid));
            rows.push(Row::bearer(
                format!("{:?}, kid {kid:?}", key.algorithm),
                &token_of_key.sign(key),
            ));
        }
    }
    let server = TestServer::start_with(require_tokens(keys.key_file().settings()));
    let mut caller = HeaderClient::connect(&server).await;
    for Row {
        name,
        authorization,
    } in &rows
    {
        // The second call finds the token in the cache.
        for _ in 0..2 {
            assert_eq!(
                caller.greeting_code(authorization).await,
                Code::Ok,
                "{name}"
            );
        }
    }
}
