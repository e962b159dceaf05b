//! Key rotation, and an issuer that is unavailable for a while.

use std::{slice, time::Duration};

use http::HeaderMap;
use jsonwebtoken::Algorithm::ES256;
use muxs::server::AuthSettings;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    TestServer,
    auth::{EMPTY, HeaderClient, KeyFile, bearer_value, code, jwks, reason, require_tokens},
    issuer::{Behavior, Issuer},
    methods::{HEALTH_CHECK, SAY_HELLO},
    signing::{Key, Token, base64},
    with_timeout,
};

/// A short refresh interval.
const SHORT_REFRESH: Duration = Duration::from_millis(100);

fn key(id: &str) -> Key {
    Key::new(id, ES256)
}

fn sign_with_key(key: &Key) -> String {
    Token::new(key).sign(key)
}

/// Signs another token with the same key, which no cache has.
fn sign_new_token(key: &Key, number: usize) -> String {
    let token = Token::new(key).claim("jti", &json!(number.to_string()).to_string());
    token.sign(key)
}

fn with_short_refresh(settings: AuthSettings) -> AuthSettings {
    AuthSettings {
        refresh: SHORT_REFRESH,
        ..settings
    }
}

async fn answer(server: &TestServer, token: &str) -> HeaderMap {
    let mut caller = HeaderClient::connect(server).await;
    caller
        .call_without_message(SAY_HELLO, &[bearer_value(token)])
        .await
}

async fn greeting_code(server: &TestServer, token: &str) -> Code {
    HeaderClient::connect(server)
        .await
        .greeting_code_with(token)
        .await
}

/// Waits until a token is accepted, which happens when the keys have been fetched for the first time.
async fn wait_accepted(server: &TestServer, token: &str) {
    wait_code_change(server, token, Code::Unavailable, Code::Ok).await;
}

/// Waits until the code of a call changes from `from` to `to`.
async fn wait_code_change(server: &TestServer, token: &str, from: Code, to: Code) {
    let mut caller = HeaderClient::connect(server).await;
    with_timeout(async {
        loop {
            let code = caller.greeting_code_with(token).await;
            if code == to {
                return;
            }
            assert_eq!(code, from);
        }
    })
    .await;
}

#[track_caller]
fn assert_no_keys(headers: &HeaderMap) {
    assert_eq!(code(headers), Code::Unavailable, "{headers:?}");
    assert_eq!(reason(headers), "AUTH_UNAVAILABLE");
    let status = Status::from_header_map(headers).unwrap();
    let retry = status.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(1)));
    assert!(headers.get("www-authenticate").is_none());
}

#[tokio::test]
async fn first_call_with_a_new_key_fetches_the_keys() {
    let (old, new) = (key("old"), key("new"));
    let issuer = Issuer::start(Behavior::serve_keys(&[old.jwk()])).await;
    let server = TestServer::start_with(require_tokens(issuer.settings()));
    wait_accepted(&server, &sign_with_key(&old)).await;
    assert_eq!(issuer.request_count(), 1);

    issuer.set_behavior(Behavior::serve_keys(&[old.jwk(), new.jwk()]));
    assert_eq!(greeting_code(&server, &sign_with_key(&new)).await, Code::Ok);
    assert_eq!(greeting_code(&server, &sign_with_key(&old)).await, Code::Ok);
    assert_eq!(issuer.request_count(), 2);

    // Tokens with invented key IDs do not cause a refresh each.
    let mut caller = HeaderClient::connect(&server).await;
    for number in 0..50 {
        let made_up = key(&format!("made-up-{number}"));
        let code = caller.greeting_code_with(&sign_with_key(&made_up)).await;
        assert_eq!(code, Code::Unauthenticated);
    }
    assert_eq!(issuer.request_count(), 2);
    assert_eq!(
        caller.greeting_code_with(&sign_with_key(&new)).await,
        Code::Ok
    );
}

#[tokio::test]
async fn first_call_with_a_new_key_rereads_the_key_file() {
    let (old, new) = (key("old"), key("new"));
    let file = KeyFile::new(&[old.jwk()]);
    let server = TestServer::start_with(require_tokens(file.settings()));
    assert_eq!(greeting_code(&server, &sign_with_key(&old)).await, Code::Ok);
    file.replace(&jwks(&[new.jwk()]));
    assert_eq!(greeting_code(&server, &sign_with_key(&old)).await, Code::Ok);
    assert_eq!(greeting_code(&server, &sign_with_key(&new)).await, Code::Ok);
    // The old key is gone, also for a token that was accepted before.
    assert_eq!(
        greeting_code(&server, &sign_with_key(&old)).await,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn concurrent_calls_share_one_key_refresh() {
    let (old, new) = (key("old"), key("new"));
    let mut issuer = Issuer::start(Behavior::serve_keys(&[old.jwk()])).await;
    let server = TestServer::start_with(require_tokens(issuer.settings()));
    wait_accepted(&server, &sign_with_key(&old)).await;
    issuer.set_behavior(Behavior::Hang);
    let tokens: Vec<_> = (0..20).map(|number| sign_new_token(&new, number)).collect();
    let calls = tokens.iter().map(|token| greeting_code(&server, token));
    let calls = futures::future::join_all(calls);
    let answers = async {
        issuer.wait_requests(2).await;
        // Calls with a known key do not wait.
        assert_eq!(greeting_code(&server, &sign_with_key(&old)).await, Code::Ok);
        issuer.set_behavior(Behavior::serve_keys(&[old.jwk(), new.jwk()]));
    };
    let (codes, ()) = tokio::join!(calls, answers);
    assert_eq!(codes, [Code::Ok; 20]);
    assert_eq!(issuer.request_count(), 2);
}

/// Some calls look up the old keys, and request a refresh when the new keys have arrived already.
#[tokio::test]
async fn call_sees_keys_that_arrive_during_its_check() {
    let old = key("old");
    for round in 0..20 {
        let new = key("new");
        let issuer = Issuer::start(Behavior::serve_keys(&[old.jwk()])).await;
        let server = TestServer::start_with(require_tokens(issuer.settings()));
        wait_accepted(&server, &sign_with_key(&old)).await;
        issuer.set_behavior(Behavior::serve_keys(&[old.jwk(), new.jwk()]));
        let mut callers = Vec::new();
        for _ in 0..8 {
            callers.push(HeaderClient::connect(&server).await);
        }
        let token = sign_with_key(&new);
        let calls = callers.iter_mut().map(|caller| async {
            let mut codes = Vec::new();
            for _ in 0..4 {
                codes.push(caller.greeting_code_with(&token).await);
            }
            codes
        });
        let codes = futures::future::join_all(calls).await.concat();
        assert_eq!(codes, [Code::Ok; 32], "round {round}");
    }
}

#[tokio::test]
async fn tokens_of_a_removed_key_are_refused() {
    let (kept, gone) = (key("kept"), key("gone"));
    let mut issuer = Issuer::start(Behavior::serve_keys(&[kept.jwk(), gone.jwk()])).await;
    let server = TestServer::start_with(require_tokens(with_short_refresh(issuer.settings())));
    let token = sign_with_key(&gone);
    wait_accepted(&server, &token).await;
    // One connection stays on one worker, and so with one token cache.
    let mut caller = HeaderClient::connect(&server).await;
    assert_eq!(caller.greeting_code_with(&token).await, Code::Ok);
    issuer.set_behavior(Behavior::serve_keys(&[kept.jwk()]));
    issuer.wait_two_more_requests().await;
    assert_eq!(
        caller.greeting_code_with(&token).await,
        Code::Unauthenticated
    );
    let token = sign_with_key(&kept);
    assert_eq!(caller.greeting_code_with(&token).await, Code::Ok);

    // Another key with the same key ID does not verify the token.
    issuer.set_behavior(Behavior::serve_keys(&[kept.with_same_id().jwk()]));
    issuer.wait_two_more_requests().await;
    assert_eq!(
        caller.greeting_code_with(&token).await,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn cached_keys_expire_when_the_issuer_stays_away() {
    let key = key("key");
    let mut issuer = Issuer::start(Behavior::serve_keys(&[key.jwk()])).await;
    let settings = AuthSettings {
        keys_max_age: Duration::from_secs(3),
        ..with_short_refresh(issuer.settings())
    };
    let server = TestServer::start_with(require_tokens(settings));
    let cached = sign_with_key(&key);
    wait_accepted(&server, &cached).await;
    let mut caller = HeaderClient::connect(&server).await;
    issuer.set_behavior(Behavior::Close);
    issuer.wait_two_more_requests().await;
    assert_eq!(caller.greeting_code_with(&cached).await, Code::Ok);
    assert_eq!(
        greeting_code(&server, &sign_new_token(&key, 2)).await,
        Code::Ok
    );

    wait_code_change(&server, &cached, Code::Ok, Code::Unavailable).await;
    assert_eq!(caller.greeting_code_with(&cached).await, Code::Unavailable);
    assert_no_keys(&answer(&server, &cached).await);
    assert_no_keys(&answer(&server, &sign_new_token(&key, 3)).await);
    assert_no_keys(&answer(&server, "nonsense").await);
    // A call without a token is refused without keys.
    let missing = HeaderClient::connect(&server)
        .await
        .call_without_message(SAY_HELLO, &[])
        .await;
    assert_eq!(code(&missing), Code::Unauthenticated);

    issuer.set_behavior(Behavior::serve_keys(&[key.jwk()]));
    wait_accepted(&server, &cached).await;
}

/// Keys are refreshed before they expire, even with a longer refresh interval.
#[tokio::test]
async fn keys_are_refreshed_before_they_expire() {
    let key = key("key");
    let mut issuer = Issuer::start(Behavior::serve_keys(&[key.jwk()])).await;
    let settings = AuthSettings {
        keys_max_age: Duration::from_secs(2),
        ..issuer.settings()
    };
    let server = TestServer::start_with(require_tokens(settings));
    let token = sign_with_key(&key);
    wait_accepted(&server, &token).await;
    let mut caller = HeaderClient::connect(&server).await;
    let asked = issuer.wait_requests(4);
    let calls = async {
        loop {
            assert_eq!(caller.greeting_code_with(&token).await, Code::Ok);
        }
    };
    tokio::select! {
        () = asked => {}
        () = calls => {}
    }
}

/// A mistake in a flag must not become an attack on the issuer.
#[tokio::test]
async fn zero_refresh_interval_does_not_flood_the_issuer() {
    let key = key("key");
    let mut issuer = Issuer::start(Behavior::serve_keys(&[key.jwk()])).await;
    let settings = AuthSettings {
        refresh: Duration::ZERO,
        ..issuer.settings()
    };
    let server = TestServer::start_with(require_tokens(settings));
    wait_accepted(&server, &sign_with_key(&key)).await;
    let begin = std::time::Instant::now();
    let asked = issuer.request_count();
    issuer.wait_requests(asked + 10).await;
    assert!(
        begin.elapsed() > Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn server_starts_while_the_issuer_is_down() {
    let key = key("key");
    let issuer = Issuer::start(Behavior::Close).await;
    for settings in [issuer.settings(), issuer.discovery()] {
        issuer.set_behavior(Behavior::Close);
        let iss = json!(settings.issuer).to_string();
        let server = TestServer::start_with(require_tokens(settings));
        let token = Token::new(&key).claim("iss", &iss).sign(&key);
        assert_no_keys(&answer(&server, &token).await);
        let mut caller = HeaderClient::connect(&server).await;
        assert_eq!(code(&caller.call(HEALTH_CHECK, &[], EMPTY).await), Code::Ok);
        let configuration = json!({
            "issuer": issuer.url(),
            "jwks_uri": format!("{}/keys", issuer.url()),
        });
        issuer.set_behavior(Behavior::serve_discovery(&configuration, &[key.jwk()]));
        wait_accepted(&server, &token).await;
    }
}

/// The issuer also fails while a refresh is under way.
#[tokio::test]
async fn new_key_is_fetched_when_the_issuer_returns() {
    let (old, new) = (key("old"), key("new"));
    let issuer = Issuer::start(Behavior::serve_keys(&[old.jwk()])).await;
    let server = TestServer::start_with(require_tokens(issuer.settings()));
    wait_accepted(&server, &sign_with_key(&old)).await;
    issuer.set_behavior(Behavior::Close);
    assert_eq!(
        greeting_code(&server, &sign_with_key(&new)).await,
        Code::Unauthenticated
    );
    assert_eq!(greeting_code(&server, &sign_with_key(&old)).await, Code::Ok);
    issuer.set_behavior(Behavior::serve_keys(&[new.jwk()]));
    wait_code_change(
        &server,
        &sign_with_key(&new),
        Code::Unauthenticated,
        Code::Ok,
    )
    .await;
}

#[tokio::test]
async fn metadata_of_another_issuer_is_rejected() {
    let key = key("key");
    let mut issuer = Issuer::start(Behavior::Close).await;
    let server = TestServer::start_with(require_tokens(with_short_refresh(issuer.discovery())));
    let url = issuer.url();
    let token = Token::new(&key)
        .claim("iss", &json!(url).to_string())
        .sign(&key);
    let keys = format!("{url}/keys");
    for configuration in [
        json!({ "issuer": format!("{url}/"), "jwks_uri": keys }),
        json!({ "issuer": "https://other.example", "jwks_uri": keys }),
        json!({ "issuer": [url], "jwks_uri": keys }),
        json!({ "jwks_uri": keys }),
        json!({ "issuer": url }),
        json!({ "issuer": url, "jwks_uri": null }),
        json!({ "issuer": url, "jwks_uri": "/keys" }),
        json!({ "issuer": url, "jwks_uri": "http://issuer.example/keys" }),
        json!({ "issuer": url, "jwks_uri": keys.replace("http://", "http://name:secret@") }),
        json!([]),
    ] {
        issuer.set_behavior(Behavior::serve_discovery(&configuration, &[key.jwk()]));
        issuer.wait_two_more_requests().await;
        assert_no_keys(&answer(&server, &token).await);
    }
    let good = json!({ "issuer": url, "jwks_uri": keys });
    issuer.set_behavior(Behavior::serve_discovery(&good, &[key.jwk()]));
    wait_accepted(&server, &token).await;
}

/// Answers of an issuer that are not a JWK set.
fn invalid_key_documents(key: &Key, elsewhere: &Issuer) -> Vec<Behavior> {
    let good = jwks(&[key.jwk()]);
    let mut encrypts = key.jwk();
    encrypts["use"] = json!("enc");
    let huge = json!({ "keys": [key.jwk()], "x": "x".repeat(2_000_000) });
    let redirect = format!("location: {}/keys\r\n", elsewhere.url());
    let torn = Behavior::Respond(
        format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{good}").into_bytes(),
    );
    vec![
        Behavior::serve_document(""),
        Behavior::serve_document("x"),
        Behavior::serve_document("<html>"),
        Behavior::serve_document("[]"),
        Behavior::serve_document("{}"),
        Behavior::serve_document(&good[..good.len() - 1]),
        Behavior::serve_document(&key.jwk().to_string()),
        Behavior::serve_keys(&[]),
        Behavior::serve_keys(&[json!({ "kty": "oct", "kid": "key", "k": "c2VjcmV0" })]),
        Behavior::serve_keys(&[encrypts]),
        Behavior::serve_document(&huge.to_string()),
        Behavior::respond("404 Not Found", "", &good),
        Behavior::respond("500 Internal Server Error", "", &good),
        Behavior::respond("203 Non-Authoritative", "", &good),
        Behavior::respond("301 Moved Permanently", &redirect, ""),
        Behavior::respond("307 Temporary Redirect", &redirect, &good),
        torn,
        Behavior::Respond(b"\0\x01\x02 nothing of HTTP\r\n\r\n".to_vec()),
        Behavior::Respond(Vec::new()),
        Behavior::Close,
    ]
}

#[tokio::test]
async fn invalid_jwks_keeps_the_old_keys() {
    let key = key("key");
    let elsewhere = Issuer::start(Behavior::serve_keys(&[key.jwk()])).await;
    let mut issuer = Issuer::start(Behavior::Close).await;
    let server = TestServer::start_with(require_tokens(with_short_refresh(issuer.settings())));
    let token = sign_with_key(&key);
    for mood in invalid_key_documents(&key, &elsewhere) {
        issuer.set_behavior(mood);
        issuer.wait_two_more_requests().await;
        assert_no_keys(&answer(&server, &token).await);
    }
    issuer.set_behavior(Behavior::serve_keys(&[key.jwk()]));
    wait_accepted(&server, &token).await;
    for mood in invalid_key_documents(&key, &elsewhere) {
        issuer.set_behavior(mood);
        issuer.wait_two_more_requests().await;
        assert_eq!(greeting_code(&server, &token).await, Code::Ok);
    }
    assert_eq!(elsewhere.request_count(), 0, "a redirect was followed");
}

#[tokio::test]
async fn broken_key_does_not_exclude_the_others() {
    let key = key("key");
    let mut broken = Key::new("broken", ES256).jwk();
    broken["x"] = json!("***");
    let mut off_curve = Key::new("off", ES256).jwk();
    off_curve["x"] = json!(base64(&[1; 32]));
    let keys = [
        json!(5),
        json!({}),
        json!({ "kty": "XYZ", "kid": "tomorrow" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA" }),
        json!({ "kty": "RSA", "kid": "rsa", "n": "", "e": "" }),
        json!({ "kty": "RSA", "kid": "small", "n": "3w", "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        broken,
        off_curve,
        key.jwk(),
    ];
    let server = TestServer::start_with(require_tokens(KeyFile::new(&keys).settings()));
    assert_eq!(greeting_code(&server, &sign_with_key(&key)).await, Code::Ok);
    let nameless = Token::new(&key).without_header("kid").sign(&key);
    assert_eq!(greeting_code(&server, &nameless).await, Code::Ok);
    for id in ["broken", "off", "rsa", "small", "tomorrow"] {
        let token = Token::new(&key)
            .header("kid", &json!(id).to_string())
            .sign(&key);
        assert_eq!(
            greeting_code(&server, &token).await,
            Code::Unauthenticated,
            "{id}"
        );
    }
}

#[tokio::test]
async fn wait_for_keys_ends_with_the_deadline_or_the_client() {
    let (old, new) = (key("old"), key("new"));
    let mut issuer = Issuer::start(Behavior::serve_keys(&[old.jwk()])).await;
    let server = TestServer::start_with(require_tokens(issuer.settings()));
    wait_accepted(&server, &sign_with_key(&old)).await;
    issuer.set_behavior(Behavior::Hang);
    let mut caller = HeaderClient::connect(&server).await;
    let token = bearer_value(&sign_with_key(&new));

    // The call that started the refresh is cancelled; the calls that wait with it are not affected.
    let request = caller.request(SAY_HELLO, slice::from_ref(&token));
    let (leaving, mut stream) = caller.connection.send_request(request, false).unwrap();
    issuer.wait_requests(2).await;
    let request = caller.request(SAY_HELLO, slice::from_ref(&token));
    let (staying, _silent) = caller.connection.send_request(request, true).unwrap();
    stream.send_reset(h2::Reason::CANCEL);
    drop(leaving);

    let mut request = caller.request(SAY_HELLO, slice::from_ref(&token));
    let timeout = "100m".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    let (late, _silent) = caller.connection.send_request(request, false).unwrap();
    let late = with_timeout(late).await.unwrap();
    assert_eq!(code(late.headers()), Code::DeadlineExceeded);
    assert_eq!(reason(late.headers()), "DEADLINE");

    issuer.set_behavior(Behavior::serve_keys(&[new.jwk()]));
    let staying = with_timeout(staying).await.unwrap();
    assert_ne!(code(staying.headers()), Code::Unauthenticated);
    assert_eq!(caller.greeting_code(&[token]).await, Code::Ok);
}
