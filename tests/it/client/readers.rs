//! Uploads from a reader.

use std::{future::IntoFuture, io};

use muxs::client::{Error, Event};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::Place;
use crate::{
    fake::{Act, Fake, PIECE, committed, has, lost},
    support::bounded,
};

#[tokio::test]
async fn a_reader_is_sent_to_its_end_without_a_size() {
    for size in [0, 1, PIECE, 9 * PIECE + 1] {
        let place = Place::with(size);
        let fake = Fake::start().await;
        fake.on_write(place.continues_at(0));
        let reader = place.content.as_slice();
        bounded(fake.client().upload_from(reader, "name").into_future())
            .await
            .unwrap();
        place.assert_sent(&fake);
        assert_eq!(fake.script().opens[0].size, None);
    }
}

#[tokio::test]
async fn a_reader_is_sent_across_cuts() {
    let place = Place::new();
    let fake = Fake::start().await;
    let full = &place.content;
    fake.on_write([has(full, 0), Act::Take(5), Act::Fail(lost())])
        .on_write([
            has(full, 2500),
            Act::Take(2),
            has(full, 3600),
            Act::Fail(lost()),
        ])
        .on_write(place.continues_at(3600));
    let reader = full.as_slice();
    bounded(fake.client().upload_from(reader, "name").into_future())
        .await
        .unwrap();
    place.assert_sent(&fake);
}

#[tokio::test]
async fn a_reader_of_which_the_server_lost_what_was_durable_fails() {
    let place = Place::new();
    let fake = Fake::start().await;
    fake.on_write([
        has(&place.content, 0),
        Act::Take(5),
        has(&place.content, 3 * PIECE),
        Act::Take(3),
        Act::Fail(lost()),
    ])
    .on_write(place.continues_at(0));
    let reader = place.content.as_slice();
    let upload = fake.client().upload_from(reader, "name").into_future();
    let result = bounded(upload).await;
    assert!(
        matches!(result, Err(Error::CannotRewind { offset: 0 })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_reader_that_fails_discards_its_upload() {
    let fake = Fake::start().await;
    fake.on_write([has(b"", 0), Act::TakeToFinish]);
    let reader = broken_reader();
    let result = bounded(fake.client().upload_from(reader, "name").into_future()).await;
    assert!(matches!(result, Err(Error::Stream { .. })), "{result:?}");
    assert_eq!(fake.script().aborts.len(), 1);
}

/// A server ends an upload of which nothing comes.
#[tokio::test(start_paused = true)]
async fn a_reader_that_has_nothing_for_long_is_spoken_for() {
    let place = Place::with(PIECE + 1);
    let fake = Fake::start().await;
    fake.on_write([
        has(&place.content, 0),
        Act::Take(3),
        has(&place.content, PIECE),
        Act::TakeToFinish,
        committed(place.info()),
    ]);
    let (mut writer, reader) = tokio::io::duplex(PIECE);
    let taken = Notify::new();
    let client = fake.client();
    let upload = client.upload_from(reader, "name").on_event(|event| {
        if matches!(event, Event::Advanced { durable, .. } if durable == PIECE as u64) {
            taken.notify_one();
        }
    });
    let write = async {
        writer.write_all(&place.content[..PIECE]).await.unwrap();
        // The clock goes on when all wait for it, and the client speaks up.
        taken.notified().await;
        writer.write_all(&place.content[PIECE..]).await.unwrap();
        drop(writer);
    };
    let (sent, ()) = tokio::join!(upload.into_future(), write);
    sent.unwrap();
    place.assert_sent(&fake);
    let lengths = fake.script().chunks[0]
        .iter()
        .map(|chunk| chunk.data.len())
        .collect::<Vec<_>>();
    let [first, between @ .., last] = &lengths[..] else {
        panic!("{lengths:?}");
    };
    assert_eq!((*first, *last), (PIECE, 1));
    assert!(between.len() >= 2 && between.iter().all(|length| *length == 0));
}

/// Gives some bytes and then an error.
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
