//! Access tokens: one that expires costs a transfer nothing, one that is refused ends it, and no
//! secret is told to anybody else.

use std::{error::Error as _, fs, time::Duration};

use muxs::{
    client::{
        self, AuthorizedChannel, ClientCredentials, Credentials, Error, Event, Retry, TokenError,
    },
    pb::{StatRequest, file_controller_client::FileControllerClient},
};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use super::{
    Place, Told, assert_failure,
    issuer::{Act as Answer, Issuer},
};
use crate::{
    fake::{Act, Fake, PIECE, Part, failure, has, lost, rest},
    support::bounded,
};

const SECRET: &str = "p%ss wörd:&";

fn refused() -> Status {
    failure(Code::Unauthenticated, "UNAUTHENTICATED")
}

fn credentials(issuer: &Issuer) -> Credentials {
    Credentials::client_credentials(ClientCredentials {
        issuer: issuer.url.clone(),
        client_id: "back:up".to_owned(),
        client_secret: SECRET.to_owned(),
        scope: Some("files.read files.write".to_owned()),
        audience: Some("https://files.example.com".to_owned()),
    })
}

/// Does a Stat with what the issuer answers, and fails.
async fn no_token_from(issuer: &Issuer) -> TokenError {
    let fake = Fake::start().await;
    let error = bounded(fake.client_with(credentials(issuer)).stat("name"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), None, "{error}");
    assert!(fake.script().shown.is_empty());
    assert_no_secret(&error);
    match error {
        Error::Token(error) => error,
        error => panic!("{error:?}"),
    }
}

/// Neither it nor what caused it has what must not be told.
#[track_caller]
fn assert_no_secret(error: &(dyn std::error::Error + 'static)) {
    let mut told = format!("{error:?}");
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        told += &format!(" {cause}");
    }
    for secret in [SECRET, "p%25ss", "ss+w", "the-token", "cCUyNXNz"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn one_token_does_for_many_calls_and_all_clones() {
    let place = Place::new();
    let fake = Fake::start().await;
    let issuer = Issuer::start([Answer::Grant("one", Some(3600))]).await;
    let client = fake.client_with(credentials(&issuer));
    fake.script()
        .stats
        .extend([Ok(place.info()), Ok(place.info())]);
    fake.on_write(place.continues_at(0))
        .on_read(rest(&place.content, "etag", 0));

    let other = client.clone();
    let (one, two) = bounded(async { tokio::join!(client.stat("name"), other.stat("name")) }).await;
    assert_eq!((one.unwrap(), two.unwrap()), (place.info(), place.info()));
    let upload = client.upload(place.source(), "name");
    bounded(upload.into_future()).await.unwrap();
    let download = other.download("name", place.target());
    bounded(download.into_future()).await.unwrap();

    assert_eq!(fake.script().shown, ["Bearer one"; 4]);
    let script = issuer.script();
    assert_eq!((script.discoveries, script.asked.len()), (1, 1));
}

#[tokio::test]
async fn an_issuer_is_asked_as_the_rfcs_have_it() {
    let fake = Fake::start().await;
    let issuer = Issuer::start([Answer::Grant("one", None), Answer::Grant("two", None)]).await;
    fake.script().stats.push_back(Ok(Place::new().info()));
    bounded(fake.client_with(credentials(&issuer)).stat("name"))
        .await
        .unwrap();
    let asked = issuer.script().asked[0].to_ascii_lowercase();
    // Both are form-urlencoded before they are encoded together: RFC 6749 2.3.1.
    let basic = "back%3Aup:p%25ss+w%C3%B6rd%3A%26";
    let head = issuer.script().asked[0].clone();
    let shown = head
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Basic "));
    assert_eq!(decoded(shown.unwrap()), basic);
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
    fake.script().stats.push_back(Ok(Place::new().info()));
    bounded(fake.client_with(named).stat("name")).await.unwrap();
    let asked = issuer.script().asked[1].clone();
    let body = asked.rsplit("\r\n\r\n").next().unwrap();
    assert_eq!(body, "grant_type=client_credentials&audience=files");
}

/// Base64, by the book.
fn decoded(text: &str) -> String {
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
async fn a_token_is_replaced_before_it_expires() {
    let fake = Fake::start().await;
    let tokens = [
        Answer::Grant("one", Some(0)),
        Answer::Grant("two", Some(3600)),
    ];
    let issuer = Issuer::start(tokens).await;
    let client = fake.client_with(credentials(&issuer));
    for _ in 0..3 {
        fake.script().stats.push_back(Ok(Place::new().info()));
        bounded(client.stat("name")).await.unwrap();
    }
    let shown = ["Bearer one", "Bearer two", "Bearer two"];
    assert_eq!(fake.script().shown, shown);
}

#[tokio::test]
async fn an_upload_whose_token_expires_goes_on_from_what_is_durable_with_another() {
    let place = Place::new();
    let fake = Fake::start().await;
    let tokens = [
        Answer::Grant("one", Some(3600)),
        Answer::Grant("two", Some(3600)),
        Answer::Grant("three", Some(3600)),
    ];
    let issuer = Issuer::start(tokens).await;
    let durable = 2 * PIECE + 7;
    let further = 5 * PIECE;
    fake.on_write([
        has(&place.content, 0),
        Act::Take(4),
        has(&place.content, durable),
        Act::Fail(refused()),
    ])
    .on_write([
        has(&place.content, durable),
        Act::Take(4),
        has(&place.content, further),
        Act::Fail(refused()),
    ])
    .on_write(place.continues_at(further));
    let told = Told::default();
    // Of the attempts that fail in passing, there are none: this is none of them.
    let client = fake.client_with(credentials(&issuer)).retry(Retry {
        attempts: 1,
        ..Retry::default()
    });
    let upload = client.upload(place.source(), "name");
    bounded(upload.on_event(told.listener()).into_future())
        .await
        .unwrap();
    place.assert_sent(&fake);
    assert_eq!(
        fake.script().shown,
        ["Bearer one", "Bearer two", "Bearer three"]
    );
    let retrying = "retrying: the server answered Unauthenticated: scripted";
    assert_eq!(
        told.words(),
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
async fn a_download_whose_token_expires_goes_on_with_another() {
    let place = Place::new();
    let fake = Fake::start().await;
    let issuer = Issuer::start(["one", "two"].map(|token| Answer::Grant(token, None))).await;
    let mut cut = rest(&place.content, "etag", 0);
    cut.truncate(4);
    cut.push(Part::Fail(refused()));
    fake.on_read(cut)
        .on_read(rest(&place.content, "etag", 3 * PIECE));
    let client = fake.client_with(credentials(&issuer));
    let download = client.download("name", place.target());
    bounded(download.into_future()).await.unwrap();
    place.assert_received();
    assert_eq!(fake.script().shown, ["Bearer one", "Bearer two"]);
    assert_eq!(fake.script().read_requests[1].offset, 3 * PIECE as u64);
}

/// Tokens that are kept may be refused early, once: a new one may help, and if it does not, no
/// other will.
#[tokio::test]
async fn a_token_that_was_kept_is_replaced_once_and_a_new_one_that_is_refused_ends_it() {
    let place = Place::new();
    let fake = Fake::start().await;
    let tokens = ["one", "two", "three"].map(|token| Answer::Grant(token, Some(3600)));
    let issuer = Issuer::start(tokens).await;
    let client = fake.client_with(credentials(&issuer));
    fake.script().stats.push_back(Ok(place.info()));
    bounded(client.stat("name")).await.unwrap();

    // A failure that passes in between makes it no endless story.
    let acts = [refused(), lost(), refused()].map(|status| [Act::Fail(status)]);
    for acts in acts {
        fake.on_write(acts);
    }
    let upload = client.upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    let shown = ["Bearer one", "Bearer one", "Bearer two", "Bearer two"];
    assert_eq!(fake.script().shown, shown);

    // The one that was refused is not kept. The next is new, and so final at once.
    fake.on_write([Act::Fail(refused())]);
    let upload = client.upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(fake.script().shown[4..], ["Bearer three"]);
}

#[tokio::test]
async fn a_fixed_token_that_is_refused_ends_it() {
    let fake = Fake::start().await;
    for status in [refused(), Status::unauthenticated("by a proxy")] {
        fake.script().stats.push_back(Err(status));
        let client = fake.client_with(Credentials::token(" the-token\n"));
        let error = bounded(client.stat("name")).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Unauthenticated));
        assert_no_secret(&error);
    }
    assert_eq!(fake.script().shown, ["Bearer the-token"; 2]);
}

#[tokio::test]
async fn a_client_without_credentials_shows_nothing_and_ends_when_it_is_refused() {
    let fake = Fake::start().await;
    fake.script().stats.push_back(Err(refused()));
    let error = bounded(fake.client().stat("name")).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated));
    assert_eq!(fake.script().shown, [""]);
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_for_each_call_and_after_a_refusal() {
    let place = Place::new();
    let fake = Fake::start().await;
    let file = place.path("token");
    fs::write(&file, "one\n").unwrap();
    let client = fake.client_with(Credentials::file(&file));
    for token in ["one", "two"] {
        fs::write(&file, token).unwrap();
        fake.script().stats.push_back(Ok(place.info()));
        bounded(client.stat("name")).await.unwrap();
    }

    // Replaced while an upload goes on.
    fake.on_write([has(&place.content, 0), Act::Fail(refused())])
        .on_write(place.continues_at(0));
    let upload = client.upload(place.source(), "name");
    let (replaced, mut is_first) = (file.clone(), true);
    let upload = upload.on_event(move |event| {
        if let (Event::Opened { .. }, true) = (event, std::mem::take(&mut is_first)) {
            fs::write(&replaced, "three").unwrap();
        }
    });
    bounded(upload.into_future()).await.unwrap();
    place.assert_sent(&fake);

    // The same token would be refused again.
    fake.on_write([Act::Fail(refused())]);
    let upload = client.upload(place.source(), "name");
    let result = bounded(upload.into_future()).await;
    assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    let shown = ["one", "two", "two", "three", "three"].map(|token| format!("Bearer {token}"));
    assert_eq!(fake.script().shown, shown);
}

#[tokio::test]
async fn a_file_or_a_command_that_gives_no_token_makes_no_call() {
    let place = Place::new();
    let fake = Fake::start().await;
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
    for (credentials, told) in cases {
        let upload = fake.client_with(credentials).upload(place.source(), "name");
        let error = bounded(upload.into_future()).await.unwrap_err();
        assert!(matches!(error, Error::Token(_)), "{error:?}");
        assert_eq!(error.code(), None);
        assert!(error.to_string().starts_with(told), "{error}");
        assert_no_secret(&error);
    }
    assert!(fake.script().shown.is_empty());
}

/// An opaque token is kept until it is refused, a JWT until it expires.
#[tokio::test]
async fn a_command_is_run_again_when_its_token_is_refused_or_expires() {
    let place = Place::new();
    let fake = Fake::start().await;
    let runs = place.path("runs");
    let numbered = format!("echo >> '{0}'; wc -l < '{0}'", runs.display());
    let client = fake.client_with(Credentials::command(&numbered));
    for status in [Ok(place.info()), Err(refused()), Ok(place.info())] {
        fake.script().stats.push_back(status);
    }
    for _ in 0..2 {
        bounded(client.stat("name")).await.unwrap();
    }
    assert_eq!(fake.script().shown, ["Bearer 1", "Bearer 1", "Bearer 2"]);

    // {"exp":1}: long over.
    let jwt = format!("echo >> '{}'; echo 'e30.eyJleHAiOjF9.x'", runs.display());
    let client = fake.client_with(Credentials::command(jwt));
    for _ in 0..2 {
        fake.script().stats.push_back(Ok(place.info()));
        bounded(client.stat("name")).await.unwrap();
    }
    assert_eq!(fs::read(runs).unwrap().len(), 4);
}

#[tokio::test]
async fn an_issuer_that_is_not_what_it_should_be_is_told_nothing() {
    let issuer = Issuer::start([]).await;
    let url = issuer.url.clone();
    let named = |issuer: &str, endpoint: &str| {
        format!(r#"{{"issuer":"{issuer}","token_endpoint":"{endpoint}"}}"#)
    };
    let endpoint = format!("{url}/token");
    let cases = [
        (
            named("http://127.0.0.1:1/realm", &endpoint),
            "another issuer",
        ),
        // To the letter.
        (named(&format!("{url}/"), &endpoint), "another issuer"),
        (named(&url, "http://example.com/token"), "neither https nor"),
        (named(&url, "ftp://127.0.0.1/token"), "neither https nor"),
        (
            named(&url, "https://x:the-token@example.com/"),
            "a name or password in them",
        ),
        (named(&url, "/token"), "not a URL"),
        (
            format!(r#"{{"issuer":"{url}"}}"#),
            "names no token_endpoint",
        ),
        ("the-token".to_owned(), "other than the configuration"),
        ("[".repeat(1 << 20) + "]", "more than 1048576 bytes"),
    ];
    for (configuration, told) in cases {
        issuer.script().configuration = Some(configuration);
        let error = no_token_from(&issuer).await;
        assert!(matches!(error, TokenError::Refused(_)), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    assert!(issuer.script().asked.is_empty());
}

#[tokio::test]
async fn an_issuer_is_only_asked_where_nobody_listens_in() {
    let fake = Fake::start().await;
    for (issuer, told) in [
        (
            "http://issuer.example.com",
            "neither https nor on a loopback host",
        ),
        (
            "http://10.0.0.1:8080/",
            "neither https nor on a loopback host",
        ),
        (
            "https://x:the-token@issuer.example.com",
            "a name or password in them",
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
        let error = bounded(fake.client_with(credentials).stat("name"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Token(TokenError::Refused(_))),
            "{error:?}"
        );
        assert!(error.to_string().contains(told), "{error}");
        assert_no_secret(&error);
    }
}

#[tokio::test]
async fn a_refusal_of_the_issuer_ends_it_and_repeats_only_words_of_the_rfc() {
    let granted = |token_type: &str, token: &str| {
        format!(r#"{{"access_token":"{token}","token_type":"{token_type}","expires_in":"60"}}"#)
    };
    let cases = [
        (
            Answer::Answer(
                "401 Unauthorized",
                format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#),
            ),
            "/realm/token answered 401 Unauthorized: invalid_client",
        ),
        (
            Answer::Answer("400 Bad Request", r#"{"error":"the-token"}"#.to_owned()),
            "/realm/token answered 400 Bad Request",
        ),
        (
            Answer::Redirect,
            "/realm/token answered 307 Temporary Redirect",
        ),
        (
            Answer::Answer("200 OK", granted("MAC", "the-token")),
            "/realm/token answered something other than a bearer token",
        ),
        (
            Answer::Answer("200 OK", granted("Bearer", "the-token the-token")),
            "/realm/token answered something other than a token of visible ASCII that is not too \
             long",
        ),
        (
            Answer::Answer("200 OK", "the-token".to_owned()),
            "/realm/token answered something other than a token and its type",
        ),
        (
            Answer::Answer("200 OK", "x".repeat((1 << 20) + 1)),
            "/realm/token answered more than 1048576 bytes",
        ),
    ];
    for (answer, told) in cases {
        let issuer = Issuer::start([answer]).await;
        let error = no_token_from(&issuer).await;
        assert!(matches!(error, TokenError::Refused(_)), "{error}");
        let origin = issuer.url.trim_end_matches("/realm");
        let expected = format!("no token from the issuer: {origin}{told}");
        assert_eq!(error.to_string(), expected);
        assert!(issuer.script().strayed.is_empty());
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_answer_is_asked_again() {
    let place = Place::new();
    let fake = Fake::start().await;
    let unavailable = |status| Answer::Answer(status, "the-token".to_owned());
    let issuer = Issuer::start([
        unavailable("503 Service Unavailable"),
        Answer::Close,
        unavailable("429 Too Many Requests"),
        Answer::Grant("one", None),
    ])
    .await;
    fake.on_write(place.continues_at(0));
    let told = Told::default();
    let client = fake.client_with(credentials(&issuer));
    let upload = client.upload(place.source(), "name");
    bounded(upload.on_event(told.listener()).into_future())
        .await
        .unwrap();
    let words = told.words();
    assert!(words[0].contains("503 Service Unavailable"), "{words:?}");
    assert!(words[1].contains("cannot be reached"), "{words:?}");
    assert!(words[2].contains("429 Too Many Requests"), "{words:?}");
    assert_eq!(words[3], "opened at 0");

    // Not for ever.
    let issuer = Issuer::start((0..4).map(|_| Answer::Close)).await;
    let client = fake.client_with(credentials(&issuer));
    let error = bounded(client.stat("name")).await.unwrap_err();
    assert!(
        matches!(error, Error::RetriesExhausted { attempts: 4, .. }),
        "{error:?}"
    );
    assert_eq!(error.code(), None);
    assert_no_secret(&error);
}

#[tokio::test]
async fn an_issuer_that_says_nothing_is_not_waited_for_without_end() {
    let fake = Fake::start().await;
    let issuer = Issuer::start([Answer::Hang]).await;
    let client = fake.client_with(credentials(&issuer)).retry(Retry {
        attempts: 1,
        ..Retry::default()
    });
    let stat = tokio::spawn(async move { client.stat("name").await });
    bounded(issuer.hangs.notified()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    let error = stat.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert_no_secret(&error);
}

#[tokio::test]
async fn a_token_is_used_to_its_end_while_the_issuer_cannot_be_reached() {
    let fake = Fake::start().await;
    let issuer = Issuer::start([Answer::Grant("one", Some(3600)), Answer::Close]).await;
    let client = fake.client_with(credentials(&issuer));
    let stat = async || {
        fake.script().stats.push_back(Ok(Place::new().info()));
        bounded(client.stat("name")).await.unwrap();
    };
    stat().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3570)).await;
    tokio::time::resume();
    // The first of them asks the issuer, in vain; the second not yet again.
    stat().await;
    stat().await;
    assert_eq!(fake.script().shown, ["Bearer one"; 3]);
    assert_eq!(issuer.script().asked.len(), 2);
}

#[tokio::test]
async fn a_token_is_not_sent_where_others_can_read_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // It leads to this machine, and says so to nobody: 0.0.0.0 is any address of it.
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
async fn every_generated_client_shows_a_token_and_has_another_after_a_refusal() {
    let fake = Fake::start().await;
    let info = Place::new().info();
    let tokens = ["one", "two"].map(|token| Answer::Grant(token, None));
    let issuer = Issuer::start(tokens).await;
    let authorized = fake.authorized(credentials(&issuer));
    let mut files = FileControllerClient::new(authorized);
    let results = [Ok(info.clone()), Err(refused()), Ok(info)];
    fake.script().stats.extend(results);
    bounded(files.stat(StatRequest::default())).await.unwrap();
    let status = bounded(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    bounded(files.stat(StatRequest::default())).await.unwrap();
    // One that it brings itself.
    let mut request = tonic::Request::new(StatRequest::default());
    let own = "Bearer own".parse().unwrap();
    request.metadata_mut().insert("authorization", own);
    fake.script().stats.push_back(Ok(Place::new().info()));
    bounded(files.stat(request)).await.unwrap();
    let shown = ["Bearer one", "Bearer one", "Bearer two", "Bearer own"];
    assert_eq!(fake.script().shown, shown);
}

#[tokio::test]
async fn a_call_of_a_generated_client_without_a_token_fails_and_says_that_it_was_not_made() {
    let fake = Fake::start().await;
    let authorized = fake.authorized(Credentials::command("exit 1"));
    let mut files = FileControllerClient::new(authorized);
    let status = bounded(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let source = status.source().unwrap();
    assert!(source.is::<TokenError>(), "{source:?}");

    let issuer = Issuer::start([Answer::Close]).await;
    let authorized = fake.authorized(credentials(&issuer));
    let mut files = FileControllerClient::new(authorized);
    let status = bounded(files.stat(StatRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_no_secret(&status);
    assert!(fake.script().shown.is_empty());
}
