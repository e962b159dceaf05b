//! What one client's Writes take longest for holds up no other client. Times are compared within one run.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use muxs::files::{Settings, Store};

use super::{Client, WRITTEN, write};
use crate::support::{
    Program, TestServer,
    mount::Mount,
    traced::{kill_traced, start_faulty},
    with_timeout,
};

/// The size of a file whose freeing takes a while, in bytes.
const LARGE: u64 = 1 << 30;

/// Writes until `count` are measured or the time is over, and returns their median.
async fn median_of_writes(files: &mut Client, count: usize) -> Duration {
    const AT_MOST: Duration = Duration::from_secs(15);
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < count && begun.elapsed() < AT_MOST {
        times.push(time_of_write(files, &format!("existing/{}.txt", times.len())).await);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

async fn time_of_write(files: &mut Client, name: &str) -> Duration {
    let begun = Instant::now();
    assert_eq!(write(files, name, "text").await, WRITTEN);
    begun.elapsed()
}

/// Writes 20 files into new folders, 62 levels deep, again and again.
async fn write_deep(program: &Program) {
    let files = program.files().await;
    for round in 0.. {
        let folder = format!("new-{round}/{}", ["deep"; 61].join("/"));
        let writes = (0..20).map(async |number| {
            let name = format!("{folder}/{number}.txt");
            assert_eq!(write(&mut files.clone(), &name, "text").await, WRITTEN);
        });
        join_all(writes).await;
    }
}

#[tokio::test]
async fn new_folders_of_one_client_do_not_hold_up_another() {
    const WRITES: usize = 25;
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    fs::create_dir_all(root.join("existing")).unwrap();
    let slow = "delay_enter=10ms";
    let Some(program) = start_faulty(&root, &trace, "fsync,fdatasync,syncfs", slow).await else {
        return;
    };
    let mut files = program.files().await;
    let alone = median_of_writes(&mut files, WRITES).await;
    let beside = tokio::select! {
        beside = median_of_writes(&mut files, WRITES) => beside,
        () = write_deep(&program) => unreachable!(),
    };
    assert!(
        root.join("new-0").exists(),
        "the other client wrote nothing"
    );
    assert!(beside < 3 * alone, "{beside:?}, alone {alone:?}");
    kill_traced(program).await;
}

/// The pages of a replaced file are freed when nobody has it open. For large files that takes a while.
#[tokio::test]
async fn freeing_of_a_replaced_file_does_not_hold_up_another_write() {
    const ROUNDS: usize = 3;
    let Some(mount) = Mount::tmpfs("size=1200m") else {
        return;
    };
    let root = mount.path();
    fs::create_dir_all(root.join("existing")).unwrap();
    let server = TestServer::with_store(Store::open(root, Settings::default()).unwrap(), |_| {});
    let mut files = server.files().await;
    let large = root.join("large.txt");
    let mut frees = Vec::new();
    let mut stalls = Vec::new();
    for _ in 0..ROUNDS {
        allocate(&large).await;
        let begun = Instant::now();
        fs::remove_file(&large).unwrap();
        frees.push(begun.elapsed());

        allocate(&large).await;
        let mut other = files.clone();
        let mut replaced = std::pin::pin!(write(&mut other, "large.txt", "small"));
        let mut longest = Duration::ZERO;
        let mut is_replaced = false;
        // Some Writes come after the replacement, whose file may be freed after its answer.
        let mut more = 20;
        while more > 0 {
            let write = time_of_write(&mut files, "existing/a.txt");
            let time = match is_replaced {
                true => {
                    more -= 1;
                    write.await
                }
                false => {
                    let mut write = std::pin::pin!(write);
                    tokio::select! {
                        biased;
                        status = &mut replaced => {
                            assert_eq!(status, WRITTEN);
                            is_replaced = true;
                            write.await
                        }
                        time = &mut write => time,
                    }
                }
            };
            longest = longest.max(time);
        }
        stalls.push(longest);
    }
    let (free, stall) = (frees.iter().min().unwrap(), stalls.iter().min().unwrap());
    assert!(
        stall < &(*free / 2),
        "stalled for {stalls:?}, freeing takes {frees:?}"
    );
}

/// Makes a file whose pages are there, once those of the one before are free.
async fn allocate(path: &Path) {
    let folder = path.parent().unwrap();
    let freed = async {
        while free_bytes(folder) < LARGE {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(freed).await;
    let file = fs::File::create(path).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, flags, 0, LARGE).unwrap();
}

fn free_bytes(folder: &Path) -> u64 {
    let filesystem = rustix::fs::statvfs(folder).unwrap();
    filesystem.f_bfree * filesystem.f_frsize
}
