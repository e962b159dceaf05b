//! Credentials of the transfer client: an expired token is replaced during a transfer, a refused token ends
//! it, and no secret reaches another party.

use std::{error::Error as _, fs, time::Duration};

use muxs::{
    client::{
        self, AuthorizedChannel, ClientCredentials, Credentials, Error, Event, Retry, TokenError,
    },
    pb::{StatRequest, file_controller_client::FileControllerClient},
};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::support::{
    scripted_server::{
        Action, MAX_CHUNK, ReadAction, ScriptedServer, connection_lost, events_from, failure,
        progress,
    },
    token_endpoint::{TokenAction, TokenEndpoint},
    transfer_dir::{EventLog, TransferDir, assert_failure},
    with_timeout,
};

const SECRET: &str = "p%ss wörd:&";

fn refusal() -> Status {
    failure(Code::Unauthenticated, "UNAUTHENTICATED")
}

fn credentials(issuer: &TokenEndpoint) -> Credentials {
    Credentials::client_credentials(ClientCredentials {
        issuer: issuer.url.clone(),
        client_id: "back:up".to_owned(),
        client_secret: SECRET.to_owned(),
        scope: Some("files.read files.write".to_owned()),
        audience: Some("https://files.example.com".to_owned()),
    })
}

/// Calls Stat with credentials of this endpoint, and returns the error.
async fn token_error_from(issuer: &TokenEndpoint) -> TokenError {
    let server = ScriptedServer::start().await;
    let error = with_timeout(server.client_with(credentials(issuer)).stat("name"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), None, "{error}");
    assert!(server.script().authorizations.is_empty());
    assert_no_secret(&error);
    match error {
        Error::Token(error) => error,
        error => panic!("{error:?}"),
    }
}

/// Asserts that neither the error nor its causes contain a secret.
#[track_caller]
fn assert_no_secret(error: &(dyn std::error::Error + 'static)) {
    let mut text = format!("{error:?}");
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        text += &format!(" {cause}");
    }
    for secret in [SECRET, "p%25ss", "ss+w", "the-token", "cCUyNXNz"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn cached_token_serves_many_calls_and_all_clones() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let issuer = TokenEndpoint::start([TokenAction::Grant("one", Some(3600))]).await;
    let client = server.client_with(credentials(&issuer));
    server
        .script()
        .stats
        .extend([Ok(place.info()), Ok(place.info())]);
    server
        .on_write(place.resume_actions(0))
        .on_read(events_from(&place.content, "etag", 0));

    let other = client.clone();
    let (one, two) =
        with_timeout(async { tokio::join!(client.stat("name"), other.stat("name")) }).await;
    assert_eq!((one.unwrap(), two.unwrap()), (place.info(), place.info()));
    let upload = client.upload(place.source(), "name");
    with_timeout(upload.into_future()).await.unwrap();
    let download = other.download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();

    assert_eq!(server.script().authorizations, ["Bearer one"; 4]);
    let script = issuer.script();
    assert_eq!((script.discoveries, script.requests.len()), (1, 1));
}

#[tokio::test]
async fn token_request_follows_rfc_6749() {
    let server = ScriptedServer::start().await;
    let issuer = TokenEndpoint::start([
        TokenAction::Grant("one", None),
        TokenAction::Grant("two", None),
    ])
    .await;
    server
        .script()
        .stats
        .push_back(Ok(TransferDir::new().info()));
    with_timeout(server.client_with(credentials(&issuer)).stat("name"))
        .await
        .unwrap();
    let asked = issuer.script().requests[0].to_ascii_lowercase();
    // ID and secret are form-urlencoded before base64 (RFC 6749, 2.3.1).
    let basic = "back%3Aup:p%25ss+w%C3%B6rd%3A%26";
    let head = issuer.script().requests[0].clone();
    let shown = head
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Basic "));
    assert_eq!(decode_base64(shown.unwrap()), basic);
    assert!(asked.contains("content-type: application/x-www-form-urlencoded\r\n"));
    let body = asked.rsplit("\r\n\r\n").next().unwrap();
    assert_eq!(
        body,
        "grant_type=client_credentials&scope=files.read+files.write\
         &audience=https%3a%2f%2ffiles.example.com&resource=https%3a%2f%2ffiles.example.com"
    );

    let named = Credentials::client_credentials(ClientCredentials {
        issuer: issuer.url.clone(),
        client_id: "id".to_owned(),
        client_secret: "x".to_owned(),
        scope: None,
        audience: Some("files".to_owned()),
    });
    server
        .script()
        .stats
        .push_back(Ok(TransferDir::new().info()));
    with_timeout(server.client_with(named).stat("name"))
        .await
        .unwrap();
    let asked = issuer.script().requests[1].clone();
    let body = asked.rsplit("\r\n\r\n").next().unwrap();
    assert_eq!(body, "grant_type=client_credentials&audience=files");
}

/// Decodes base64, as an independent implementation.
fn decode_base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte| ALPHABET.iter().position(|letter| *letter == byte);
    let digits: Vec<usize> = text.bytes().filter_map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | four.get(at).copied().unwrap_or(0));
        [bits >> 16, bits >> 8, bits].map(|byte| byte as u8)[..four.len() - 1].to_vec()
    });
    String::from_utf8(bytes.collect()).unwrap()
}

#[tokio::test]
async fn token_is_replaced_before_it_expires() {
    let server = ScriptedServer::start().await;
    let tokens = [
        TokenAction::Grant("one", Some(0)),
        TokenAction::Grant("two", Some(3600)),
    ];
    let issuer = TokenEndpoint::start(tokens).await;
    let client = server.client_with(credentials(&issuer));
    for _ in 0..3 {
        server
            .script()
            .stats
            .push_back(Ok(TransferDir::new().info()));
        with_timeout(client.stat("name")).await.unwrap();
    }
    let shown = ["Bearer one", "Bearer two", "Bearer two"];
    assert_eq!(server.script().authorizations, shown);
}

#[tokio::test]
async fn upload_resumes_from_the_durable_prefix_with_a_new_token() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let tokens = [
        TokenAction::Grant("one", Some(3600)),
        TokenAction::Grant("two", Some(3600)),
        TokenAction::Grant("three", Some(3600)),
    ];
    let issuer = TokenEndpoint::start(tokens).await;
    let durable = 2 * MAX_CHUNK + 7;
    let further = 5 * MAX_CHUNK;
    server
        .on_write([
            progress(&place.content, 0),
            Action::ReceiveChunks(4),
            progress(&place.content, durable),
            Action::Fail(refusal()),
        ])
        .on_write([
            progress(&place.content, durable),
            Action::ReceiveChunks(4),
            progress(&place.content, further),
            Action::Fail(refusal()),
        ])
        .on_write(place.resume_actions(further));
    let events = EventLog::default();
    // Replacing a token does not count as an attempt.
    let client = server.client_with(credentials(&issuer)).retry(Retry {
        attempts: 1,
        ..Retry::default()
    });
    let upload = client.upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    place.assert_sent(&server);
    assert_eq!(
        server.script().authorizations,
        ["Bearer one", "Bearer two", "Bearer three"]
    );
    let retrying = "retrying: the server answered UNAUTHENTICATED: scripted";
    assert_eq!(
        events.entries(),
        [
            "opened at 0",
            retrying,
            "opened at 2007",
            retrying,
            "opened at 5000"
        ]
    );
}

#[tokio::test]
async fn download_resumes_with_a_new_token() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let issuer =
        TokenEndpoint::start(["one", "two"].map(|token| TokenAction::Grant(token, None))).await;
    let mut cut = events_from(&place.content, "etag", 0);
    cut.truncate(4);
    cut.push(ReadAction::Fail(refusal()));
    server
        .on_read(cut)
        .on_read(events_from(&place.content, "etag", 3 * MAX_CHUNK));
    let client = server.client_with(credentials(&issuer));
    let download = client.download("name", place.target());
    with_timeout(download.into_future()).await.unwrap();
    place.assert_received();
    assert_eq!(server.script().authorizations, ["Bearer one", "Bearer two"]);
    assert_eq!(
        server.script().read_requests[1].offset,
        3 * MAX_CHUNK as u64
    );
}

/// A cached token may be refused before it expires. A new token is tried once; if the server refuses it
/// too, the transfer ends.
#[tokio::test]
async fn refused_cached_token_is_replaced_once() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let tokens = ["one", "two", "three"].map(|token| TokenAction::Grant(token, Some(3600)));
    let issuer = TokenEndpoint::start(tokens).await;
    let client = server.client_with(credentials(&issuer));
    server.script().stats.push_back(Ok(place.info()));
    with_timeout(client.stat("name")).await.unwrap();

    // A transient failure in between does not reset this count.
    let acts = [refusal(), connection_lost(), refusal()].map(|status| [Action::Fail(status)]);
    for acts in acts {
        server.on_write(acts);
    }
    let upload = client.upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    let shown = ["Bearer one", "Bearer one", "Bearer two", "Bearer two"];
    assert_eq!(server.script().authorizations, shown);

    // The refused token is not cached. The next token is new, and its refusal is final.
    server.on_write([Action::Fail(refusal())]);
    let upload = client.upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(server.script().authorizations[4..], ["Bearer three"]);
}

#[tokio::test]
async fn refused_fixed_token_ends_the_call() {
    let server = ScriptedServer::start().await;
    for status in [refusal(), Status::unauthenticated("by a proxy")] {
        server.script().stats.push_back(Err(status));
        let client = server.client_with(Credentials::token(" the-token\n"));
        let error = with_timeout(client.stat("name")).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Unauthenticated));
        assert_no_secret(&error);
    }
    assert_eq!(server.script().authorizations, ["Bearer the-token"; 2]);
}

#[tokio::test]
async fn client_without_credentials_sends_no_token() {
    let server = ScriptedServer::start().await;
    server.script().stats.push_back(Err(refusal()));
    let error = with_timeout(server.client().stat("name"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated));
    assert_eq!(server.script().authorizations, [""]);
}

#[tokio::test]
async fn token_file_is_reread_for_each_call_and_after_a_refusal() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let file = place.path("token");
    fs::write(&file, "one\n").unwrap();
    let client = server.client_with(Credentials::file(&file));
    for token in ["one", "two"] {
        fs::write(&file, token).unwrap();
        server.script().stats.push_back(Ok(place.info()));
        with_timeout(client.stat("name")).await.unwrap();
    }

    // The file is replaced during an upload.
    server
        .on_write([progress(&place.content, 0), Action::Fail(refusal())])
        .on_write(place.resume_actions(0));
    let upload = client.upload(place.source(), "name");
    let (replaced, mut is_first) = (file.clone(), true);
    let upload = upload.on_event(move |event| {
        if let (Event::Opened { .. }, true) = (event, std::mem::take(&mut is_first)) {
            fs::write(&replaced, "three").unwrap();
        }
    });
    with_timeout(upload.into_future()).await.unwrap();
    place.assert_sent(&server);

    // The file is unchanged, and the same token would be refused again.
    server.on_write([Action::Fail(refusal())]);
    let upload = client.upload(place.source(), "name");
    let result = with_timeout(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    let shown = ["one", "two", "two", "three", "three"].map(|token| format!("Bearer {token}"));
    assert_eq!(server.script().authorizations, shown);
}

#[tokio::test]
async fn token_source_failure_prevents_the_call() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    fs::write(place.path("two lines"), "the-token\nthe-token\n").unwrap();
    fs::write(place.path("empty"), "\n").unwrap();
    let cases = [
        (
            Credentials::file(place.path("nothing")),
            "cannot read the token in ",
        ),
        (Credentials::file(place.path("two lines")), "the token in "),
        (Credentials::file(place.path("empty")), "the token in "),
        (
            Credentials::file("/dev/zero"),
            "the token in /dev/zero is not one line",
        ),
        (Credentials::token(""), "the token is not one line"),
        (
            Credentials::command("echo the-token; echo the-token"),
            "the token that the command printed is not one line",
        ),
        (
            Credentials::command("true"),
            "the token that the command printed is not one line",
        ),
        (
            Credentials::command("echo the-token; echo 'log in first' >&2; exit 4"),
            "the command for tokens ended with exit status: 4: log in first",
        ),
    ];
    for (credentials, reason) in cases {
        let upload = server
            .client_with(credentials)
            .upload(place.source(), "name");
        let error = with_timeout(upload.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Token(_)), "{error:?}");
        assert_eq!(error.code(), None);
        assert!(error.to_string().starts_with(reason), "{error}");
        assert_no_secret(&error);
    }
    assert!(server.script().authorizations.is_empty());
}

/// An opaque token is cached until it is refused, a JWT until it expires.
#[tokio::test]
async fn token_command_is_rerun_on_refusal_or_expiry() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let runs = place.path("runs");
    let numbered = format!("echo >> '{0}'; wc -l < '{0}'", runs.display());
    let client = server.client_with(Credentials::command(&numbered));
    for status in [Ok(place.info()), Err(refusal()), Ok(place.info())] {
        server.script().stats.push_back(status);
    }
    for _ in 0..2 {
        with_timeout(client.stat("name")).await.unwrap();
    }
    assert_eq!(
        server.script().authorizations,
        ["Bearer 1", "Bearer 1", "Bearer 2"]
    );

    // The claims are {"exp":1}, which has expired.
    let jwt = format!("echo >> '{}'; echo 'e30.eyJleHAiOjF9.x'", runs.display());
    let client = server.client_with(Credentials::command(jwt));
    for _ in 0..2 {
        server.script().stats.push_back(Ok(place.info()));
        with_timeout(client.stat("name")).await.unwrap();
    }
    assert_eq!(fs::read(runs).unwrap().len(), 4);
}

#[tokio::test]
async fn mismatched_issuer_gets_no_secret() {
    let issuer = TokenEndpoint::start([]).await;
    let url = issuer.url.clone();
    let named = |issuer: &str, endpoint: &str| {
        format!(r#"{{"issuer":"{issuer}","token_endpoint":"{endpoint}"}}"#)
    };
    let endpoint = format!("{url}/token");
    let slash = format!("another issuer, \"{url}/\": the issuer has to be written so");
    let cases = [
        (
            named("http://127.0.0.1:1/realm", &endpoint),
            "another issuer",
        ),
        // Issuers are compared character by character.
        (named(&format!("{url}/"), &endpoint), slash.as_str()),
        (named(&url, "http://example.com/token"), "not encrypted"),
        (named(&url, "ftp://127.0.0.1/token"), "not encrypted"),
        (
            named(&url, "https://x:the-token@example.com/"),
            "a user name or password",
        ),
        (named(&url, "/token"), "not a URL"),
        (
            format!(r#"{{"issuer":"{url}"}}"#),
            "names no token_endpoint",
        ),
        ("the-token".to_owned(), "other than the configuration"),
        ("[".repeat(1 << 20) + "]", "more than 1048576 bytes"),
    ];
    for (configuration, reason) in cases {
        issuer.script().configuration = Some(configuration);
        let error = token_error_from(&issuer).await;
        assert!(matches!(error, TokenError::Refused(_)), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(issuer.script().requests.is_empty());
}

#[tokio::test]
async fn token_endpoint_must_be_https_or_loopback() {
    let server = ScriptedServer::start().await;
    for (issuer, reason) in [
        ("http://issuer.example.com", "is not encrypted: use https"),
        ("http://10.0.0.1:8080/", "is not encrypted: use https"),
        (
            "https://x:the-token@issuer.example.com",
            "a user name or password",
        ),
        ("issuer", "not a URL"),
    ] {
        let credentials = Credentials::client_credentials(ClientCredentials {
            issuer: issuer.to_owned(),
            client_id: "id".to_owned(),
            client_secret: SECRET.to_owned(),
            scope: None,
            audience: None,
        });
        let error = with_timeout(server.client_with(credentials).stat("name"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Token(TokenError::Refused(_))),
            "{error:?}"
        );
        assert!(error.to_string().contains(reason), "{error}");
        assert_no_secret(&error);
    }
}

#[tokio::test]
async fn token_endpoint_refusal_repeats_only_rfc_error_codes() {
    let granted = |token_type: &str, token: &str| {
        format!(r#"{{"access_token":"{token}","token_type":"{token_type}","expires_in":"60"}}"#)
    };
    let cases = [
        (
            TokenAction::Answer(
                "401 Unauthorized",
                format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#),
            ),
            "/realm/token answered 401 Unauthorized: invalid_client",
        ),
        (
            TokenAction::Answer("400 Bad Request", r#"{"error":"the-token"}"#.to_owned()),
            "/realm/token answered 400 Bad Request",
        ),
        (
            TokenAction::Redirect,
            "/realm/token answered 307 Temporary Redirect",
        ),
        (
            TokenAction::Answer("200 OK", granted("MAC", "the-token")),
            "/realm/token answered something other than a bearer token",
        ),
        (
            TokenAction::Answer("200 OK", granted("Bearer", "the-token the-token")),
            "/realm/token answered something other than a token of visible ASCII that is not too \
             long",
        ),
        (
            TokenAction::Answer("200 OK", "the-token".to_owned()),
            "/realm/token answered something other than a token and its type",
        ),
        (
            TokenAction::Answer("200 OK", "x".repeat((1 << 20) + 1)),
            "/realm/token answered more than 1048576 bytes",
        ),
    ];
    for (answer, reason) in cases {
        let issuer = TokenEndpoint::start([answer]).await;
        let error = token_error_from(&issuer).await;
        assert!(matches!(error, TokenError::Refused(_)), "{error}");
        let origin = issuer.url.trim_end_matches("/realm");
        let expected = format!("no token from the issuer: {origin}{reason}");
        assert_eq!(error.to_string(), expected);
        assert!(issuer.script().other_requests.is_empty());
    }
}

#[tokio::test]
async fn unavailable_token_endpoint_is_retried() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let unavailable = |status| TokenAction::Answer(status, "the-token".to_owned());
    let issuer = TokenEndpoint::start([
        unavailable("503 Service Unavailable"),
        TokenAction::Close,
        unavailable("429 Too Many Requests"),
        TokenAction::Grant("one", None),
    ])
    .await;
    server.on_write(place.resume_actions(0));
    let events = EventLog::default();
    let client = server.client_with(credentials(&issuer));
    let upload = client.upload(place.source(), "name");
    with_timeout(upload.on_event(events.listener()).into_future())
        .await
        .unwrap();
    let entries = events.entries();
    assert!(
        entries[0].contains("503 Service Unavailable"),
        "{entries:?}"
    );
    assert!(entries[1].contains("cannot be reached"), "{entries:?}");
    assert!(entries[2].contains("429 Too Many Requests"), "{entries:?}");
    assert_eq!(entries[3], "opened at 0");

    // The number of attempts is bounded.
    let issuer = TokenEndpoint::start((0..4).map(|_| TokenAction::Close)).await;
    let client = server.client_with(credentials(&issuer));
    let error = with_timeout(client.stat("name")).await.unwrap_err();
    assert!(
        matches!(error, Error::RetriesExhausted { attempts: 4, .. }),
        "{error:?}"
    );
    assert_eq!(error.code(), None);
    assert_no_secret(&error);
}

#[tokio::test]
async fn silent_token_endpoint_times_out() {
    let server = ScriptedServer::start().await;
    let issuer = TokenEndpoint::start([TokenAction::Hang]).await;
    let client = server.client_with(credentials(&issuer)).retry(Retry {
        attempts: 1,
        ..Retry::default()
    });
    let stat = tokio::spawn(async move { client.stat("name").await });
    with_timeout(issuer.hangs.notified()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    let error = stat.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert_no_secret(&error);
}

#[tokio::test]
async fn cached_token_is_used_until_it_expires_without_an_issuer() {
    let server = ScriptedServer::start().await;
    let issuer =
        TokenEndpoint::start([TokenAction::Grant("one", Some(3600)), TokenAction::Close]).await;
    let client = server.client_with(credentials(&issuer));
    let stat = async || {
        server
            .script()
            .stats
            .push_back(Ok(TransferDir::new().info()));
        with_timeout(client.stat("name")).await.unwrap();
    };
    stat().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3570)).await;
    tokio::time::resume();
    // The first call requests a token and fails to get one; the second does not try again yet.
    stat().await;
    stat().await;
    assert_eq!(server.script().authorizations, ["Bearer one"; 3]);
    assert_eq!(issuer.script().requests.len(), 2);
}

#[tokio::test]
async fn token_is_not_sent_in_plain_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // 0.0.0.0 leads to this machine, but is not a loopback address.
    let endpoint = client::endpoint(format!("http://0.0.0.0:{port}")).unwrap();
    let channel = endpoint.connect_lazy();
    let refused = AuthorizedChannel::new(&endpoint, channel, Credentials::token("the-token"));
    let error = refused.unwrap_err();
    assert!(
        matches!(error, Error::Token(TokenError::Plaintext(_))),
        "{error:?}"
    );
    assert!(error.to_string().contains("is not encrypted"), "{error}");
    assert_no_secret(&error);
    let connected = listener.accept();
    assert!(futures::poll!(std::pin::pin!(connected)).is_pending());
}

#[tokio::test]
async fn generated_client_sends_tokens_and_replaces_refused_ones() {
    let server = ScriptedServer::start().await;
    let info = TransferDir::new().info();
    let tokens = ["one", "two"].map(|token| TokenAction::Grant(token, None));
    let issuer = TokenEndpoint::start(tokens).await;
    let authorized = server.authorized_channel(credentials(&issuer));
    let mut files = FileControllerClient::new(authorized);
    let results = [Ok(info.clone()), Err(refusal()), Ok(info)];
    server.script().stats.extend(results);
    with_timeout(files.stat(StatRequest::default()))
        .await
        .unwrap();
    let status = with_timeout(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    with_timeout(files.stat(StatRequest::default()))
        .await
        .unwrap();
    // The request has its own token.
    let mut request = tonic::Request::new(StatRequest::default());
    let own = "Bearer own".parse().unwrap();
    request.metadata_mut().insert("authorization", own);
    server
        .script()
        .stats
        .push_back(Ok(TransferDir::new().info()));
    with_timeout(files.stat(request)).await.unwrap();
    let shown = ["Bearer one", "Bearer one", "Bearer two", "Bearer own"];
    assert_eq!(server.script().authorizations, shown);
}

#[tokio::test]
async fn generated_client_without_a_token_fails_before_the_call() {
    let server = ScriptedServer::start().await;
    let authorized = server.authorized_channel(Credentials::command("exit 1"));
    let mut files = FileControllerClient::new(authorized);
    let status = with_timeout(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let source = status.source().unwrap();
    assert!(source.is::<TokenError>(), "{source:?}");

    let issuer = TokenEndpoint::start([TokenAction::Close]).await;
    let authorized = server.authorized_channel(credentials(&issuer));
    let mut files = FileControllerClient::new(authorized);
    let status = with_timeout(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_no_secret(&status);
    assert!(server.script().authorizations.is_empty());
}
