//! Transfers between the client and a server program that is killed and restarted.

use std::{
    fs::{self, File, FileTimes},
    time::{Duration, SystemTime},
};

use muxs::client::Event;
use tokio::{io::AsyncWriteExt, sync::Notify};
use tonic::Code;

use crate::support::{
    restartable_server::{Killer, RestartableServer, SIZE, is_half_done},
    with_timeout,
};

#[tokio::test]
async fn upload_survives_a_killed_server() {
    let mut server = RestartableServer::start().await;
    let content = server.file("source");
    let killer = Killer::new(&server);
    let upload = server
        .client()
        .upload(server.path("source"), "a/b")
        .on_event(killer.listener(is_half_done))
        .into_future();
    let (sent, ()) =
        with_timeout(async { tokio::join!(upload, server.restart_when_killed(&killer.killed)) })
            .await;
    assert_eq!(sent.unwrap().size, SIZE as u64);
    assert!(server.stored("a/b") == content);
    assert_eq!(killer.opened_offsets().len(), 2);
}

/// Durable bytes are not needed from the reader again.
#[tokio::test]
async fn upload_from_a_reader_survives_a_killed_server() {
    let mut server = RestartableServer::start().await;
    let killer = Killer::new(&server);
    let (mut input, reader) = tokio::io::duplex(1024 * 1024);
    let upload = server
        .client()
        .upload_from(reader, "name")
        .on_event(killer.listener(|_, durable| durable > 0))
        .into_future();
    let feed = async {
        input.write_all(&[7; 3_000_000]).await.unwrap();
        server.restart_when_killed(&killer.killed).await;
        input.write_all(&[8; 3_000_000]).await.unwrap();
        input.shutdown().await.unwrap();
    };
    let (sent, ()) = with_timeout(async { tokio::join!(upload, feed) }).await;
    assert_eq!(sent.unwrap().size, 6_000_000);
    assert!(server.stored("name") == [[7; 3_000_000], [8; 3_000_000]].concat());
    assert!(
        killer.opened_offsets()[1] > 0,
        "{:?}",
        killer.opened_offsets()
    );
}

#[tokio::test]
async fn download_survives_a_killed_server() {
    let mut server = RestartableServer::start().await;
    let content = server.file("root/name");
    let killer = Killer::new(&server);
    let download = server
        .client()
        .download("name", server.path("target"))
        .on_event(killer.listener(is_half_done))
        .into_future();
    let (received, ()) =
        with_timeout(async { tokio::join!(download, server.restart_when_killed(&killer.killed)) })
            .await;
    received.unwrap();
    assert!(fs::read(server.path("target")).unwrap() == content);
    assert!(
        killer.opened_offsets()[1] >= SIZE as u64 / 2,
        "{:?}",
        killer.opened_offsets()
    );
}

#[tokio::test]
async fn dropped_upload_of_a_file_that_is_touched_is_resumed_by_the_next_run() {
    let server = RestartableServer::start().await;
    let content = server.file("source");
    let client = server.client();
    let so_far = Notify::new();
    {
        let upload = client.upload(server.path("source"), "name");
        let upload = upload.on_event(|event| {
            if matches!(event, Event::Advanced { transferred, .. } if is_half_done(transferred, 0))
            {
                so_far.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = with_timeout(so_far.notified()) => {}
            result = upload.into_future() => panic!("{result:?}"),
        }
    }
    // The file is not another one for that.
    let later = SystemTime::now() + Duration::from_secs(1);
    let times = FileTimes::new().set_modified(later);
    let source = File::options().write(true).open(server.path("source"));
    source.unwrap().set_times(times).unwrap();
    let mut offset = 0;
    let upload = client.upload(server.path("source"), "name");
    let upload = upload.on_event(|event| {
        if let Event::Opened { offset: at, .. } = event {
            offset = at;
        }
    });
    with_timeout(upload.into_future()).await.unwrap();
    assert!(server.stored("name") == content);
    assert!(offset > 0);
}

#[tokio::test]
async fn uploaded_file_downloads_under_matching_preconditions() {
    let server = RestartableServer::start().await;
    let client = server.client();
    let source = server.path("source");
    for size in [0, 1, 1024 * 1024, 3 * 1024 * 1024 + 1] {
        let name = format!("a/b/{size}");
        let content = vec![size as u8; size];
        fs::write(&source, &content).unwrap();
        let upload = || client.upload(&source, &name);
        let sent = with_timeout(upload().create_only().into_future())
            .await
            .unwrap();
        assert_eq!(
            with_timeout(client.stat(&name)).await.unwrap().etag,
            sent.etag
        );
        let mut received = Vec::new();
        let download = client.download_to(&name, &mut received);
        let version = with_timeout(download.into_future()).await.unwrap();
        assert_eq!(version.etag, sent.etag);
        assert!(received == content);

        let again = with_timeout(upload().if_etag(&sent.etag).into_future());
        let again = again.await.unwrap();
        let late = with_timeout(upload().if_etag("another").into_future()).await;
        assert_eq!(late.unwrap_err().code(), Some(Code::FailedPrecondition));
        // The file has been replaced, so that the version of the first upload is gone.
        assert_ne!(sent.etag, again.etag);
        let first = with_timeout(upload().create_only().into_future()).await;
        assert_eq!(first.unwrap_err().code(), Some(Code::AlreadyExists));
    }
}
