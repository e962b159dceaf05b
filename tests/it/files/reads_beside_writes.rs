//! Reads on a disk that is slow to sync, beside more Writes than the server has threads.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use muxs::pb::StatRequest;

use crate::support::{Program, file, traced::Faults, with_timeout};

/// More than a runtime has blocking threads.
const WRITES: usize = 720;

/// Fewer than the calls that a connection may have at a time.
const WRITES_PER_CONNECTION: usize = 120;

/// The threads for writes.
const WRITING: usize = 256;

#[tokio::test]
async fn stat_does_not_wait_for_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    // All calls share the threads of one worker.
    let program = Program::start_with(&root, &["--workers", "1"]).await;
    let mut files = program.files().await;
    files.write(file("there.txt", "text")).await.unwrap();
    let slow = Faults::attach(&program, &[], "fsync", "delay_enter=60s", &trace).await;
    let Some(_slow) = slow else {
        return;
    };
    let answered = Arc::new(AtomicUsize::new(0));
    let mut writes = Vec::new();
    for _ in 0..WRITES / WRITES_PER_CONNECTION {
        let files = program.files().await;
        for _ in 0..WRITES_PER_CONNECTION {
            let (mut files, answered) = (files.clone(), Arc::clone(&answered));
            let name = format!("{}.txt", writes.len());
            writes.push(tokio::spawn(async move {
                let _ = files.write(file(&name, "text")).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }));
        }
    }
    let staged = root.join(".muxs/writes");
    with_timeout(async {
        while fs::read_dir(&staged).unwrap().count() < WRITING {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..100 {
        let filename = "there.txt".to_owned();
        files.stat(StatRequest { filename }).await.unwrap();
    }
    assert_eq!(
        answered.load(Ordering::Relaxed),
        0,
        "the Stats waited for Writes"
    );
    for write in writes {
        write.abort();
    }
}
