//! Uploads from a reader.

use std::{future::IntoFuture, io};

use muxs::client::{Error, Event};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use crate::support::{
    scripted_server::{Action, MAX_CHUNK, ScriptedServer, commit, connection_lost, progress},
    transfer_dir::TransferDir,
    with_timeout,
};

#[tokio::test]
async fn reader_is_uploaded_without_a_known_size() {
    for size in [0, 1, MAX_CHUNK, 9 * MAX_CHUNK + 1] {
        let place = TransferDir::with(size);
        let server = ScriptedServer::start().await;
        server.on_write(place.resume_actions(0));
        let reader = place.content.as_slice();
        with_timeout(server.client().upload_from(reader, "name").into_future())
            .await
            .unwrap();
        place.assert_sent(&server);
        assert_eq!(server.script().opens[0].size, None);
    }
}

#[tokio::test]
async fn upload_from_a_reader_survives_broken_connections() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let full = &place.content;
    server
        .on_write([
            progress(full, 0),
            Action::ReceiveChunks(5),
            Action::Fail(connection_lost()),
        ])
        .on_write([
            progress(full, 2500),
            Action::ReceiveChunks(2),
            progress(full, 3600),
            Action::Fail(connection_lost()),
        ])
        .on_write(place.resume_actions(3600));
    let reader = full.as_slice();
    with_timeout(server.client().upload_from(reader, "name").into_future())
        .await
        .unwrap();
    place.assert_sent(&server);
}

#[tokio::test]
async fn upload_from_a_reader_fails_when_durable_bytes_are_lost() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server
        .on_write([
            progress(&place.content, 0),
            Action::ReceiveChunks(5),
            progress(&place.content, 3 * MAX_CHUNK),
            Action::ReceiveChunks(3),
            Action::Fail(connection_lost()),
        ])
        .on_write(place.resume_actions(0));
    let reader = place.content.as_slice();
    let upload = server.client().upload_from(reader, "name").into_future();
    let result = with_timeout(upload).await;
    assert!(
        matches!(result, Err(Error::CannotRewind { offset: 0 })),
        "{result:?}"
    );
}

#[tokio::test]
async fn failing_reader_aborts_its_upload() {
    let server = ScriptedServer::start().await;
    server.on_write([progress(b"", 0), Action::ReceiveAll]);
    let reader = broken_reader();
    let result = with_timeout(server.client().upload_from(reader, "name").into_future()).await;
    assert!(matches!(result, Err(Error::Stream { .. })), "{result:?}");
    assert_eq!(server.script().aborts.len(), 1);
}

/// A server ends idle uploads.
#[tokio::test(start_paused = true)]
async fn idle_reader_sends_keepalive_chunks() {
    let place = TransferDir::with(MAX_CHUNK + 1);
    let server = ScriptedServer::start().await;
    server.on_write([
        progress(&place.content, 0),
        Action::ReceiveChunks(3),
        progress(&place.content, MAX_CHUNK),
        Action::ReceiveAll,
        commit(place.info()),
    ]);
    let (mut writer, reader) = tokio::io::duplex(MAX_CHUNK);
    let taken = Notify::new();
    let client = server.client();
    let upload = client.upload_from(reader, "name").on_event(|event| {
        if matches!(event, Event::Advanced { durable, .. } if durable == MAX_CHUNK as u64) {
            taken.notify_one();
        }
    });
    let write = async {
        writer.write_all(&place.content[..MAX_CHUNK]).await.unwrap();
        // The paused clock advances when all tasks wait for it, up to the keepalive chunk of the client.
        taken.notified().await;
        writer.write_all(&place.content[MAX_CHUNK..]).await.unwrap();
        drop(writer);
    };
    let (sent, ()) = tokio::join!(upload.into_future(), write);
    sent.unwrap();
    place.assert_sent(&server);
    let lengths = server.script().chunks[0]
        .iter()
        .map(|chunk| chunk.data.len())
        .collect::<Vec<_>>();
    let [first, between @ .., last] = &lengths[..] else {
        panic!("{lengths:?}");
    };
    assert_eq!((*first, *last), (MAX_CHUNK, 1));
    assert!(between.len() >= 2 && between.iter().all(|length| *length == 0));
}

/// Returns a reader with some bytes and then an error.
fn broken_reader() -> impl tokio::io::AsyncRead + Send + Unpin {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::Error::other("scripted")))
        }
    }
    AsyncReadExt::chain(&b"some"[..], Broken)
}
