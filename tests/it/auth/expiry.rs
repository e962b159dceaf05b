//! A call ends when its token expires.

use std::{fs, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::support::{
    TestServer, assert_failure,
    auth::{
        HeaderClient, INVALID_TOKEN, KeyFile, bearer_value, challenge, code, now, reason,
        require_tokens, server_with_key, valid_token, with_token,
    },
    hello,
    methods::LOTS_OF_GREETINGS,
    signing::rsa,
    upload_stream::{UploadStream, chunk as upload_chunk, content, open, whole},
    with_timeout,
};

/// A token that is valid for another two seconds: the server allows a leeway of 30 s.
fn short_lived_token() -> String {
    let exp = (now() - 28).to_string();
    valid_token().claim("exp", &exp).sign(rsa())
}

#[track_caller]
fn assert_expired<T>(result: Result<T, Status>) {
    let status = assert_failure(result, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(
        status.metadata().get("www-authenticate").unwrap(),
        INVALID_TOKEN
    );
}

#[tokio::test]
async fn endless_reply_stream_ends_at_token_expiry() {
    let server = server_with_key(rsa());
    let mut request = hello("World");
    request.replies = u32::MAX;
    let replies = server
        .greeter()
        .await
        .lots_of_replies(with_token(&short_lived_token(), request))
        .await;
    let mut replies = replies.unwrap().into_inner();
    let ended = loop {
        if let Err(status) = with_timeout(replies.message()).await {
            break status;
        }
    };
    assert_expired::<()>(Err(ended));
}

#[tokio::test]
async fn idle_bidi_call_ends_at_token_expiry() {
    let server = server_with_key(rsa());
    let (names, outgoing) = mpsc::channel(1);
    let request = with_token(&short_lived_token(), ReceiverStream::new(outgoing));
    let replies = server.greeter().await.bidi_hello(request).await;
    let mut replies = replies.unwrap().into_inner();
    names.send(hello("Ann")).await.unwrap();
    assert!(with_timeout(replies.message()).await.unwrap().is_some());
    assert_expired(with_timeout(replies.message()).await);
}

/// The call has not been answered at all.
#[tokio::test]
async fn call_waiting_for_its_request_ends_at_token_expiry() {
    let server = server_with_key(rsa());
    let (_names, outgoing) = mpsc::channel(1);
    let request = with_token(&short_lived_token(), ReceiverStream::new(outgoing));
    assert_expired(with_timeout(server.greeter().await.lots_of_greetings(request)).await);
}

/// The status is queued behind unread data. The call does not wait for it, but resets the stream.
#[tokio::test]
async fn unread_download_ends_at_token_expiry() {
    let server = server_with_key(rsa());
    fs::write(server.path("a.bin"), content(8 * 1024 * 1024)).unwrap();
    let token = short_lived_token();
    let request = with_token(&token, whole("a.bin"));
    let mut events = server
        .files()
        .await
        .read_stream(request)
        .await
        .unwrap()
        .into_inner();
    let mut caller = HeaderClient::connect(&server).await;
    with_timeout(async {
        while caller.greeting_code_with(&token).await == Code::Ok {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // By now the first token has expired, and the download is cut off.
    let mut another = UploadStream::open_as(
        &mut server.files().await,
        &valid_token().sign(rsa()),
        open("b", "id", b""),
    )
    .await;
    another.progress().await;
    let ended = loop {
        match with_timeout(events.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("all of it came"),
            Err(status) => break status,
        }
    };
    // The code depends on whether the client read the rest in time.
    assert!(
        [Code::Unauthenticated, Code::Cancelled].contains(&ended.code()),
        "{ended:?}"
    );
}

#[tokio::test]
async fn upload_pauses_at_token_expiry_and_resumes_with_a_new_token() {
    // No checkpoint is due before the expiry.
    let key = KeyFile::new(&[rsa().jwk()]);
    let server = TestServer::start_with(require_tokens(key.settings()));
    let mut files = server.files().await;
    let content = content(300_000);
    let mut upload = UploadStream::open_as(
        &mut files,
        &short_lived_token(),
        open("a.bin", "id", &content),
    )
    .await;
    upload.chunks(&content[..200_000], 0, 64 * 1024).await;
    assert_expired(upload.wait_end().await);
    assert!(!server.path("a.bin").exists());

    let token = valid_token().sign(rsa());
    let mut upload = UploadStream::open_as(&mut files, &token, open("a.bin", "id", &content)).await;
    assert_eq!(upload.progress().await.persisted_size, 200_000);
    upload.chunks(&content, 200_000, 64 * 1024).await;
    upload.finish(&content).await;
    upload.wait_committed().await;
    assert_eq!(fs::read(server.path("a.bin")).unwrap(), content);
}

/// The expiry is noticed while bytes keep arriving.
#[tokio::test]
async fn busy_upload_ends_at_token_expiry() {
    let server = server_with_key(rsa());
    let mut files = server.files().await;
    let plan = muxs::pb::OpenUpload {
        size: None,
        ..open("a.bin", "id", b"")
    };
    let mut upload = UploadStream::open_as(&mut files, &short_lived_token(), plan.clone()).await;
    let steps = upload.steps();
    let sending = tokio::spawn(async move {
        let bytes = content(16 * 1024);
        for chunk in 0.. {
            let chunk = upload_chunk(chunk * bytes.len(), &bytes);
            let step = muxs::pb::write_stream_request::Step::Chunk(chunk);
            let step = muxs::pb::WriteStreamRequest { step: Some(step) };
            if steps.send(step).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_expired(upload.wait_end().await);
    drop(upload);
    with_timeout(sending).await.unwrap();
    let token = valid_token().sign(rsa());
    let mut again = UploadStream::open_as(&mut files, &token, plan).await;
    assert!(again.progress().await.persisted_size > 0);
}

#[tokio::test]
async fn deadline_before_token_expiry_is_deadline_exceeded() {
    let server = server_with_key(rsa());
    let mut caller = HeaderClient::connect(&server).await;
    let headers = [bearer_value(&short_lived_token())];
    let mut request = caller.request(LOTS_OF_GREETINGS, &headers);
    let timeout = "100m".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    let (answer, _silent) = caller.connection.send_request(request, false).unwrap();
    let answer = with_timeout(answer).await.unwrap();
    assert_eq!(code(answer.headers()), Code::DeadlineExceeded);
    assert_eq!(reason(answer.headers()), "DEADLINE");

    // A deadline after the expiry has no effect.
    let mut request = caller.request(LOTS_OF_GREETINGS, &[bearer_value(&short_lived_token())]);
    let timeout = "1H".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    let (answer, _silent) = caller.connection.send_request(request, false).unwrap();
    let answer = with_timeout(answer).await.unwrap();
    assert_eq!(code(answer.headers()), Code::Unauthenticated);
    assert_eq!(challenge(answer.headers()), INVALID_TOKEN);
}
