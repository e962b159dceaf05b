//! A store with few threads.

use std::{sync::mpsc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use tokio::time::timeout;

use super::{
    Chunk, OpenOutcome, Store, UploadWriter,
    blocking::{Pool, Pools},
};
use crate::{
    commit_point::CommitPoint,
    files::{
        settings::Settings,
        upload::{Precondition, UploadSpec},
    },
};

/// Bounds the wait for what never comes if the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store with one thread for its writes, which begins a checkpoint after every byte.
fn store(root: &tempfile::TempDir) -> Store {
    let settings = Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    };
    Store {
        pools: Pools {
            reads: Pool::new(1),
            writes: Pool::new(1),
        },
        ..Store::open(root.path(), settings).unwrap()
    }
}

async fn open(store: &Store) -> UploadWriter {
    let spec = UploadSpec {
        path: "a.bin".parse().unwrap(),
        id: "id".parse().unwrap(),
        owner: None,
        precondition: Precondition::Anything,
        size: None,
    };
    let opened = store.open_upload(spec, CommitPoint::default()).await;
    match opened.unwrap() {
        OpenOutcome::Unfinished(upload, _) => upload,
        OpenOutcome::Committed(version) => panic!("{version:?} is unexpected"),
    }
}

fn byte(offset: u64) -> Chunk {
    Chunk {
        offset,
        crc32c: None,
        bytes: Bytes::from_static(b"a"),
    }
}

#[tokio::test]
async fn upload_that_stops_while_its_work_waits_for_a_thread_keeps_none_from_others() {
    let root = tempfile::tempdir().unwrap();
    let store = store(&root);
    let mut upload = open(&store).await;
    upload.push(byte(0));
    assert!(upload.progress().await.unwrap().is_none());
    let (busy, receiver) = mpsc::channel::<()>();
    let occupied = store.write(move |_| {
        let _ = receiver.recv();
        Ok(())
    });
    let mut occupied = Box::pin(occupied);
    assert!((&mut occupied).now_or_never().is_none());
    // A write waits, and a checkpoint behind it.
    upload.push(byte(1));
    assert!(upload.progress().now_or_never().is_none());
    drop(busy);
    let other = store.write_text("other".parse().unwrap(), "text".to_owned());
    timeout(PATIENCE, other).await.unwrap().unwrap();
    occupied.await.unwrap();
    timeout(PATIENCE, upload.salvage()).await.unwrap().unwrap();
    drop(upload);
    let mut upload = open(&store).await;
    assert_eq!(upload.pause().await.unwrap().persisted.len, 2);
}
