//! Answers are sent after the data is durable: the order of the system calls, and the handling of disks
//! that fail, are full or are slow.

use std::{fs, path::Path, process::Command};

use muxs::{
    files::{Settings, Store},
    pb::{OpenUpload, WriteStreamRequest, write_stream_request::Step},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tonic::Code;

use crate::support::{
    Program, TestServer, assert_failure, file,
    memory_probe::peak_memory_bytes,
    mount::Mount,
    report_skip,
    traced::{
        Faults, assert_order, kill_traced, start_traced, stop_traced, traced_server, under_strace,
    },
    tree,
    upload_stream::{UploadStream, chunk, content, crc32c, open, put},
    with_timeout,
};

/// A test cannot cut the power, but it can check the order of the system calls.
#[tokio::test]
async fn write_is_synced_renamed_and_synced_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let Some(program) = start_traced(&root, &trace).await else {
        return;
    };
    let request = file("new/a.txt", "durable content");
    let status = program
        .files()
        .await
        .write(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.code, 0);
    stop_traced(program).await;

    let trace = fs::read_to_string(&trace).unwrap();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let root = format!("{folder}/root");
    let staged = format!("<{root}/.muxs/writes/0>");
    let steps = [
        (
            "the root's name is synced",
            vec!["fsync(".to_owned(), format!("<{folder}>")],
        ),
        (
            "the content is written",
            vec![
                "pwrite64(".to_owned(),
                staged.clone(),
                "durable content".to_owned(),
            ],
        ),
        (
            "the folder is made",
            vec!["mkdirat(".to_owned(), "\"new\"".to_owned()],
        ),
        (
            "the folder's name is synced",
            vec!["fsync(".to_owned(), format!("<{root}>")],
        ),
        ("the content is synced", vec!["sync(".to_owned(), staged]),
        (
            "the file is put in its place",
            vec!["rename".to_owned(), "\"a.txt\"".to_owned()],
        ),
        (
            "the file's name is synced",
            vec!["fsync(".to_owned(), format!("<{root}/new>")],
        ),
        (
            "the call is answered",
            vec!["writev(".to_owned(), "<socket:".to_owned()],
        ),
    ];
    assert_order(&trace, &steps);
}

/// The order holds for the progress of an upload and for its result.
#[tokio::test]
async fn upload_progress_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let Some(program) = start_traced(&root, &trace).await else {
        return;
    };
    let mut files = program.files().await;
    let content = b"durable content";
    let mut upload = UploadStream::open(&mut files, open("new/a.bin", "id", content)).await;
    upload.progress().await;
    upload.chunk(0, content).await;
    upload.wait_persisted(content.len()).await;
    upload.finish(content).await;
    upload.wait_committed().await;
    stop_traced(program).await;

    let trace = fs::read_to_string(&trace).unwrap();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let root = format!("{folder}/root");
    let uploads = format!("{root}/.muxs/uploads");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let answered = words(&["writev(", "<socket:"]);
    let steps = [
        (
            "the bytes are written",
            words(&["pwrite64(", &uploads, ".data>", "durable content"]),
        ),
        (
            "the bytes are synced",
            words(&["sync(", &uploads, ".data>"]),
        ),
        (
            "the checkpoint record is written",
            words(&["pwrite64(", &uploads, ".journal>"]),
        ),
        (
            "the checkpoint record is synced",
            words(&["sync(", &uploads, ".journal>"]),
        ),
        (
            "both names are synced",
            words(&["fsync(", &format!("<{uploads}>")]),
        ),
        ("progress is sent", answered.clone()),
        ("the folder is made", words(&["mkdirat(", "\"new\""])),
        (
            "the folder's name is synced",
            words(&["fsync(", &format!("<{root}>")]),
        ),
        (
            "the stamped file is synced",
            words(&["fsync(", &uploads, ".data>"]),
        ),
        (
            "the version to commit is recorded",
            words(&["symlinkat(", &format!("<{root}/.muxs/commits>")]),
        ),
        (
            "the record is synced",
            words(&["fsync(", &format!("<{root}/.muxs/commits>")]),
        ),
        (
            "the file is put in its place",
            words(&["rename", "\"a.bin\""]),
        ),
        (
            "the file's name is synced",
            words(&["fsync(", &format!("<{root}/new>")]),
        ),
        ("the result is sent", answered),
    ];
    assert_order(&trace, &steps);
}

/// The check of the precondition and the rename are atomic, also with a slow sync in between.
#[tokio::test]
async fn one_of_two_uploads_with_the_same_if_etag_commits() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let options = [
        "-e",
        "trace=renameat",
        "-e",
        "inject=renameat:delay_enter=300ms",
        "-o",
    ];
    let Some(program) = under_strace(&root, &options, &trace).await else {
        return;
    };
    let mut files = program.files().await;
    let old = put(&mut files, "a.bin", b"old").await;
    let mut uploads = Vec::new();
    for id in ["1", "2"] {
        let plan = OpenUpload {
            if_etag: Some(old.etag.clone()),
            ..open("a.bin", id, b"hello")
        };
        let mut upload = UploadStream::open(&mut files, plan).await;
        upload.progress().await;
        upload.chunk(0, b"hello").await;
        uploads.push(upload);
    }
    for upload in &mut uploads {
        upload.finish(b"hello").await;
    }
    let mut lost = Vec::new();
    for upload in &mut uploads {
        lost.extend(upload.next_answer().await.err());
    }
    assert_eq!(lost.len(), 1, "{lost:?}");
    for lost in lost {
        assert_failure(
            Err::<(), _>(lost),
            Code::FailedPrecondition,
            "ETAG_MISMATCH",
        );
    }
    stop_traced(program).await;
}

/// A second sync would succeed and not restore what the first has lost, so the upload restarts.
#[tokio::test]
async fn failed_sync_is_not_retried_on_the_same_file() {
    for (call, old) in [("fdatasync", "old"), ("fsync", "old")] {
        let folder = tempfile::tempdir().unwrap();
        let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.bin"), old).unwrap();
        let program = Program::start(&root).await;
        let faults = Faults::attach(&program, &[], call, "error=EIO", &trace).await;
        if faults.is_none() {
            return;
        }
        let mut files = program.files().await;
        let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
        upload.progress().await;
        upload.chunk(0, b"hello").await;
        if call == "fsync" {
            upload.finish(b"hello").await;
        }
        let failure = assert_failure(upload.wait_end().await, Code::Internal, "IO");
        assert!(!failure.message().contains("error"), "{failure:?}");
        assert!(
            program.log().contains("Input/output error"),
            "{}",
            program.log()
        );
        assert_eq!(fs::read_to_string(root.join("a.bin")).unwrap(), old);

        let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
        assert_eq!(upload.progress().await.persisted_size, 0, "{call}");
        drop(upload);
        let status = files
            .write(file("a.bin", "new"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(status.code == 1, call == "fsync");
    }
}

/// A sync takes half a minute on this disk.
#[tokio::test]
async fn checkpoint_does_not_block_receiving() {
    const CHUNK: usize = 64 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let slow = ["-e", "inject=fdatasync:delay_enter=30s", "-o"];
    let Some(program) = under_strace(&root, &slow, &trace).await else {
        return;
    };
    let mut files = program.files().await;
    let plan = open("a.bin", "id", &content(1024 * CHUNK));
    let mut upload = UploadStream::open(&mut files, plan).await;
    upload.progress().await;
    let bytes = vec![7; CHUNK];
    let mut offset = 0;
    let mut since_it_began = 0;
    while since_it_began < 32 {
        upload.chunk(offset, &bytes).await;
        offset += CHUNK;
        with_timeout(async {
            while staged_bytes(&root) < offset as u64 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let began = fs::read_to_string(&trace).unwrap().contains("fdatasync(");
        since_it_began += usize::from(began);
    }
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(
        !trace.contains("fdatasync resumed"),
        "the sync ended before"
    );
    kill_traced(program).await;
}

/// Returns the number of staged bytes of the only upload.
fn staged_bytes(root: &Path) -> u64 {
    let staged = fs::read_dir(root.join(".muxs/uploads")).unwrap();
    let mut data = staged.map(|entry| entry.unwrap().path()).filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "data")
    });
    data.next().map_or(0, |data| data.metadata().unwrap().len())
}

/// The directory exists, but its entry may not be durable: the next write has to sync it.
#[tokio::test]
async fn directory_with_a_failed_sync_is_synced_again() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    fs::create_dir(&root).unwrap();
    let program = Program::start(&root).await;
    // The first sync of each thread fails, which is the one of the root.
    let calls = "fsync,syncfs";
    let Some(faults) = Faults::attach(&program, &[], calls, "error=EIO:when=1", &trace).await
    else {
        return;
    };
    let mut files = program.files().await;
    let request = file("new/a.txt", "hello");
    let failed = files.write(request.clone()).await.unwrap().into_inner();
    assert_eq!(failed.code, 1);
    loop {
        let again = files.write(request.clone()).await.unwrap().into_inner();
        if again.code == 0 {
            break;
        }
    }
    faults.detach().await;

    let trace = fs::read_to_string(&trace).unwrap();
    let root = root.canonicalize().unwrap();
    let of_root = format!("<{}>", root.display());
    let synced = trace.lines().filter(|line| line.contains(&of_root));
    let synced = synced.filter(|line| !line.contains("EIO")).count();
    assert!(synced > 0, "the name of `new` was never synced\n{trace}");
}

/// An upload that cannot be opened for lack of descriptors is not taken for damaged.
#[tokio::test]
async fn upload_survives_running_out_of_descriptors() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start_with(root.path(), &["--checkpoint-bytes", "1B"]).await;
    let mut files = program.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;
    upload.half_close();
    upload.wait_end().await.unwrap();

    let process = Pid::from_raw(program.id().cast_signed());
    let used = fs::read_dir(format!("/proc/{}/fd", program.id()))
        .unwrap()
        .count() as u64;
    for free in 0..8 {
        let scarce = Rlimit {
            current: Some(used + free),
            ..getrlimit(Resource::Nofile)
        };
        let plenty = prlimit(process, Resource::Nofile, scarce).unwrap();
        let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
        let _ = upload.next_answer().await;
        drop(upload);
        prlimit(process, Resource::Nofile, plenty).unwrap();
        let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
        let progress = upload.progress().await;
        assert_eq!(progress.persisted_size, 3, "{free} free descriptors");
    }
}

/// Starts a server with a delay in one system call.
async fn start_slow(root: &Path, trace: &Path, call: &str, delay: &str) -> Option<Program> {
    let (traced, inject) = (
        format!("trace={call}"),
        format!("inject={call}:delay_enter={delay}"),
    );
    let options = ["-e", &traced, "-e", &inject, "-o"];
    under_strace(root, &options, trace).await
}

/// Bytes that are being written when a checkpoint begins get another checkpoint, also if no chunk follows.
#[tokio::test]
async fn slowly_written_bytes_become_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let Some(program) = start_slow(&root, &trace, "pwrite64", "1300ms").await else {
        return;
    };
    let mut files = program.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", b"hello")).await;
    // The second chunk waits for the write of the first, and the checkpoint begins in between.
    upload.chunk(0, b"hel").await;
    upload.chunk(3, b"lo").await;
    upload.wait_persisted(5).await;
    kill_traced(program).await;
}

/// Bytes that arrive faster than they are written wait at the client.
#[tokio::test]
async fn slow_disk_writes_do_not_grow_memory() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let Some(program) = start_slow(&root, &trace, "pwrite64", "30ms").await else {
        return;
    };
    let mut files = program.files().await;
    let server = traced_server(&program);
    let content = content(48 * MIB);
    put(&mut files, "first.bin", b"hello").await;
    let before = peak_memory_bytes(server);
    put(&mut files, "a.bin", &content).await;
    let growth = peak_memory_bytes(server) - before;
    assert!(growth < 24 * MIB as u64, "memory grew by {growth} bytes");
    stop_traced(program).await;
}

/// The number of written bytes that are not durable is bounded, so a slow sync stops the writing.
#[tokio::test]
async fn slow_disk_sync_applies_backpressure() {
    const MIB: usize = 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let mut command = Command::new("strace");
    command
        .args(["-f", "-e", "trace=fdatasync", "-o"])
        .arg(&trace)
        .args(["-e", "inject=fdatasync:delay_enter=1s"])
        .arg(env!("CARGO_BIN_EXE_server"))
        .args(["--listen", "127.0.0.1:0", "--checkpoint-bytes", "1MiB"])
        .arg("--root")
        .arg(&root);
    if Command::new("strace").arg("--version").output().is_err() {
        report_skip("no strace, so no disk is slow");
        return;
    }
    let program = Program::start_command(command).await;
    let mut files = program.files().await;
    let content = content(32 * MIB);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.progress().await;
    let steps = upload.steps();
    let sending = tokio::spawn(async move {
        for (k, piece) in content.chunks(MIB).enumerate() {
            let step = Some(Step::Chunk(chunk(k * MIB, piece)));
            let _ = steps.send(WriteStreamRequest { step }).await;
        }
    });
    // This progress comes two seconds after the first bytes.
    let persisted = upload.progress().await.persisted_size;
    let staged = fs::read_dir(root.join(".muxs/uploads")).unwrap();
    let written: u64 = staged
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        written < persisted + 8 * MIB as u64,
        "{written} bytes written, {persisted} durable"
    );
    sending.abort();
    kill_traced(program).await;
}

#[tokio::test]
async fn full_disk_keeps_durable_bytes_and_the_old_file() {
    const MIB: usize = 1024 * 1024;
    let Some(disk) = Mount::tmpfs("size=6m") else {
        return;
    };
    let root = disk.path();
    let store = Store::open(root, Settings::default()).unwrap();
    let server = TestServer::with_store(store, |_| {});
    let mut files = server.files().await;
    put(&mut files, "a.bin", b"old").await;
    fs::write(root.join("filler"), vec![1; 3 * MIB]).unwrap();

    let content = content(5 * MIB);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    upload.chunks(&content, 0, 64 * 1024).await;
    let full = assert_failure(
        upload.wait_end().await,
        Code::ResourceExhausted,
        "DISK_FULL",
    );
    assert!(!full.message().is_empty());
    assert_eq!(fs::read(root.join("a.bin")).unwrap(), b"old");

    // There is not even space for a journal.
    fs::write(root.join("rest"), vec![1; 3 * MIB]).unwrap_err();
    let mut other = UploadStream::open(&mut files, open("b.bin", "id", b"hello")).await;
    other.chunk(0, b"hello").await;
    assert_failure(other.wait_end().await, Code::ResourceExhausted, "DISK_FULL");

    // The upload continues when there is space again.
    fs::remove_file(root.join("rest")).unwrap();
    fs::remove_file(root.join("filler")).unwrap();
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    let progress = upload.progress().await;
    let persisted = progress.persisted_size as usize;
    assert!(persisted > MIB, "{persisted}");
    assert_eq!(progress.persisted_crc32c, crc32c(&content[..persisted]));
    upload.chunks(&content, persisted, 64 * 1024).await;
    upload.finish(&content).await;
    upload.wait_committed().await;
    assert!(fs::read(root.join("a.bin")).unwrap() == content);
}

/// A killed server may have created directories whose entries are not durable, and has not recorded which.
#[tokio::test]
async fn only_a_start_after_a_crash_syncs_the_filesystem() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let mut killed = Program::start(&root).await;
    killed.signal(Signal::KILL);
    killed.wait_end().await;
    for crashed in [true, false] {
        let Some(program) = start_traced(&root, &trace).await else {
            return;
        };
        stop_traced(program).await;
        let trace = fs::read_to_string(&trace).unwrap();
        assert_eq!(trace.contains("syncfs("), crashed, "{trace}");
    }
}

/// The lock is released with the process, and the next start removes unfinished files.
#[tokio::test]
async fn killed_server_leaves_no_lock_and_no_unfinished_files() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Program::start(root.path()).await;
    let request = file("a.txt", "kept");
    first.files().await.write(request.clone()).await.unwrap();
    fs::write(root.path().join(".muxs/writes/7"), "half").unwrap();
    fs::create_dir_all(root.path().join(".muxs/writes/what/ever")).unwrap();
    first.signal(Signal::KILL);
    first.wait_end().await;

    let second = Program::start(root.path()).await;
    let content = second
        .files()
        .await
        .read(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(content.text, "kept");
    assert!(tree(&root.path().join(".muxs/writes")).is_empty());
}
