//! Tokens are secret: no log and no answer contains one.

use std::slice;

use http::HeaderValue;
use rustix::process::Signal;

use crate::support::{
    Program,
    auth::{AUDIENCE, EMPTY, HeaderClient, ISSUER, KeyFile, valid_token},
    methods::{LOTS_OF_GREETINGS, SAY_HELLO, WRITE_STREAM},
    raw_http2,
    signing::rsa,
};

/// A text in a claim that only the issuer and the client know.
const SECRET: &str = "zanzibar-in-a-claim";

/// Values of `authorization`: valid tokens, invalid tokens, and no tokens.
fn headers() -> Vec<String> {
    let with_secret = || valid_token().claim("secret", &format!("{SECRET:?}"));
    let signed = with_secret().sign(rsa());
    let (message, signature) = signed.rsplit_once('.').unwrap();
    let (_, claims) = message.split_once('.').unwrap();
    let expired = with_secret().claim("exp", "0").sign(rsa());
    let no_scope = with_secret().claim("scope", "\"\"").sign(rsa());
    let strange_key = with_secret().header("kid", "\"strange\"").sign(rsa());
    let other = with_secret().claim("aud", "\"other\"").sign(rsa());
    let plain = with_secret().with_signature("");
    vec![
        format!("Bearer {signed}"),
        format!("bearer {signed}"),
        format!("Bearer {expired}"),
        format!("Bearer {no_scope}"),
        format!("Bearer {strange_key}"),
        format!("Bearer {other}"),
        format!("Bearer {plain}"),
        format!("Bearer {signed}x"),
        format!("Bearer {signed}.{signature}"),
        format!("Bearer {claims}"),
        format!("Basic {signed}"),
        signed.clone(),
        format!("Bearer {SECRET}-opaque-token"),
    ]
}

/// Returns the parts of a header that must not be revealed.
fn secret_parts(header: &str) -> Vec<String> {
    let token = header.rsplit(' ').next().unwrap();
    // The header of a token is public.
    let parts = token.split('.').skip(usize::from(token.contains('.')));
    let middles = parts.filter(|part| part.len() >= 30).map(|part| {
        let middle = part.len() / 2;
        part[middle - 10..middle + 10].to_owned()
    });
    let ends = [token[token.len() - 20..].to_owned(), SECRET.to_owned()];
    middles.chain(ends).collect()
}

#[tokio::test]
async fn tokens_are_not_logged_or_answered() {
    let root = tempfile::tempdir().unwrap();
    for format in ["text", "json"] {
        let keys = KeyFile::new(&[rsa().jwk()]);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", "127.0.0.1:0", "--auth-issuer", ISSUER])
            .args(["--auth-audience", AUDIENCE, "--root"])
            .arg(root.path())
            .arg("--auth-jwks")
            .arg(keys.path())
            .env("RUST_LOG", "trace")
            .env("MUXS_LOG_FORMAT", format);
        let mut server = Program::start_command(command).await;
        let (connection, driver) = raw_http2::connect_h2(server.address).await;
        let mut caller = HeaderClient {
            address: server.address,
            connection,
        };
        let headers = headers();
        let mut answers = String::new();
        for header in &headers {
            let header = HeaderValue::from_str(header).unwrap();
            for path in [SAY_HELLO, LOTS_OF_GREETINGS, WRITE_STREAM] {
                // The second time, the value may be in the dynamic table of HPACK.
                for _ in 0..2 {
                    let answered = caller.call(path, slice::from_ref(&header), EMPTY).await;
                    answers += &format!("{answered:?}\n");
                }
            }
        }
        drop(caller);
        driver.abort();
        server.signal(Signal::TERM);
        assert!(server.wait_end().await.success());
        let log = server.log();
        assert!(log.contains("TRACE"), "{log}");
        for piece in headers.iter().flat_map(|header| secret_parts(header)) {
            assert!(
                !answers.contains(&piece),
                "{piece} is in an answer: {answers}"
            );
            let line = log.lines().find(|line| line.contains(&piece));
            assert_eq!(line, None, "{piece} is in the log");
        }
    }
}
