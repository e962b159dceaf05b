//! Read, Write, Stat and ReadStream.

mod dead_calls;
mod downloads;
mod durability;
mod first_start;
mod folder_locks;
mod groups;
mod history;
mod modes;
mod mounts;
mod path_escapes;
mod reads_beside_writes;
mod swapped_links;
mod versions;

use std::{
    fs,
    io::{Read, Seek, Write},
    os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink},
    path::Path,
    sync::mpsc::TryRecvError,
    time::{Duration, SystemTime},
};

use muxs::{
    files::{OpenError, Settings, Store},
    pb::{
        Content, Failure, FileInfo, StatRequest, Status,
        file_controller_client::FileControllerClient,
    },
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use tonic::{Code, transport::Channel};

use crate::support::{Program, TestServer, assert_failure, file, tree};

type Client = FileControllerClient<Channel>;

/// The longest text that fits a message of 4 MiB.
const MAX_TEXT: usize = 4_194_299;

async fn read(files: &mut Client, filename: &str) -> Content {
    let request = file(filename, "");
    files.read(request).await.unwrap().into_inner()
}

async fn write(files: &mut Client, filename: &str, text: &str) -> Status {
    let request = file(filename, text);
    files.write(request).await.unwrap().into_inner()
}

async fn stat(files: &mut Client, filename: &str) -> Result<FileInfo, tonic::Status> {
    let filename = filename.to_owned();
    Ok(files.stat(StatRequest { filename }).await?.into_inner())
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[track_caller]
fn assert_read_failed(content: &Content, code: Code, reason: &str) {
    assert_eq!(content.text, "Error: read failed");
    assert_is(content.failure.as_ref(), code, reason);
}

#[track_caller]
fn assert_write_failed(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code, 1);
    assert_is(status.failure.as_ref(), code, reason);
}

#[track_caller]
fn assert_is(failure: Option<&Failure>, code: Code, reason: &str) {
    let failure = failure.expect("a failure");
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        (code.into(), reason)
    );
    assert!(!failure.message.is_empty());
    assert!(
        !failure.message.contains("/tmp"),
        "a path of the host in {failure:?}"
    );
}

const WRITTEN: Status = Status {
    code: 0,
    failure: None,
};

#[tokio::test]
async fn written_text_reads_back() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for text in ["37183714ghgjh243", "", "ñ🦀\r\n\0", "Error: read failed"] {
        assert_eq!(write(&mut files, "a.txt", text).await, WRITTEN);
        let content = read(&mut files, "a.txt").await;
        assert_eq!((content.text.as_str(), content.failure), (text, None));
        assert_eq!(fs::read_to_string(server.path("a.txt")).unwrap(), text);
    }
}

#[tokio::test]
async fn write_creates_missing_folders() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir(server.path("a")).unwrap();
    assert_eq!(write(&mut files, "a/b/c/d.txt", "deep").await, WRITTEN);
    assert_eq!(read(&mut files, "a/b/c/d.txt").await.text, "deep");
}

#[tokio::test]
async fn write_leaves_only_the_file() {
    let server = TestServer::start();
    let before = tree(server.root());
    write(&mut server.files().await, "a.txt", "text").await;
    let mut after = tree(server.root());
    assert_eq!(
        after.remove(&server.path("a.txt")),
        Some(Some(b"text".to_vec()))
    );
    assert_eq!(after, before);
}

#[tokio::test]
async fn longest_filename_works() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let longest = format!("{}/{}", vec!["x".repeat(254); 16].join("/"), "y".repeat(16));
    assert_eq!(longest.len(), 4096);
    assert_eq!(write(&mut files, &longest, "long").await, WRITTEN);
    assert_eq!(read(&mut files, &longest).await.text, "long");
    assert_eq!(stat(&mut files, &longest).await.unwrap().size, 4);
}

#[tokio::test]
async fn text_size_limit_is_exact() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let name = "n".repeat(255);
    let longest = "x".repeat(MAX_TEXT);
    assert_eq!(write(&mut files, &name, &longest).await, WRITTEN);
    // The client has the default limit of 4 MiB.
    assert!(read(&mut files, &name).await.text == longest);

    let status = write(&mut files, &name, &(longest + "x")).await;
    assert_write_failed(&status, Code::FailedPrecondition, "TOO_LARGE");
    let message = status.failure.unwrap().message;
    assert!(
        message.contains("4194300") && message.contains("4194299"),
        "{message}"
    );
    assert!(message.contains("WriteStream"), "{message}");

    fs::File::options()
        .write(true)
        .open(server.path(&name))
        .unwrap()
        .set_len(MAX_TEXT as u64 + 1)
        .unwrap();
    let content = read(&mut files, &name).await;
    assert_read_failed(&content, Code::FailedPrecondition, "TOO_LARGE");
    assert!(content.failure.unwrap().message.contains("ReadStream"));
}

/// Above the message limit, the refusal of the gRPC library would have no reason.
#[tokio::test]
async fn oversized_write_is_too_large() {
    let server = TestServer::start();
    let mut files = server.files().await;
    write(&mut files, "a.txt", "old").await;
    let before = tree(server.root());
    for mebibytes in [5, 64, 80] {
        let text = "x".repeat(mebibytes << 20);
        let status = write(&mut files, "a.txt", &text).await;
        assert_write_failed(&status, Code::FailedPrecondition, "TOO_LARGE");
    }
    assert_eq!(tree(server.root()), before);
}

#[tokio::test]
async fn missing_file_is_not_found() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("file"), "").unwrap();
    symlink("nowhere", server.path("dangling")).unwrap();
    symlink("file/below", server.path("below-a-file")).unwrap();
    for name in [
        "missing",
        "no/such/folder",
        "file/below",
        "dangling",
        "below-a-file",
    ] {
        let content = read(&mut files, name).await;
        assert_read_failed(&content, Code::NotFound, "NOT_FOUND");
        assert_failure(stat(&mut files, name).await, Code::NotFound, "NOT_FOUND");
    }
}

#[tokio::test]
async fn read_refuses_non_utf8() {
    let server = TestServer::start();
    fs::write(server.path("binary"), [b'a', 0xff, b'b']).unwrap();
    let content = read(&mut server.files().await, "binary").await;
    assert_read_failed(&content, Code::FailedPrecondition, "NOT_TEXT");
}

#[tokio::test]
async fn special_file_is_refused_at_once_and_untouched() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir(server.path("folder")).unwrap();
    make_fifo(&server.path("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(server.path("socket")).unwrap();
    symlink("fifo", server.path("link-to-fifo")).unwrap();
    symlink("link-b", server.path("link-a")).unwrap();
    symlink("link-a", server.path("link-b")).unwrap();
    let before = tree(server.root());

    const SPECIAL: &str = "the filename is that of a FIFO, a socket or a device";
    for (name, message) in [
        (
            "folder",
            "the filename is that of a folder: name a file in it",
        ),
        ("fifo", SPECIAL),
        ("socket", SPECIAL),
        ("link-to-fifo", SPECIAL),
        (
            "link-a",
            "the filename has a cycle of symbolic links, or too many of them",
        ),
    ] {
        let (code, reason) = (Code::FailedPrecondition, "NOT_A_FILE");
        assert_read_failed(&read(&mut files, name).await, code, reason);
        assert_write_failed(&write(&mut files, name, "text").await, code, reason);
        let failure = assert_failure(stat(&mut files, name).await, code, reason);
        assert_eq!(failure.message(), message);
    }
    // A path through a special file is refused as well.
    for name in ["fifo/below", "socket/below", "link-to-fifo/below"] {
        let status = write(&mut files, name, "text").await;
        assert_write_failed(&status, Code::FailedPrecondition, "NOT_A_FILE");
        assert_eq!(
            status.failure.unwrap().message,
            "a part of the filename that has to be a folder is a file"
        );
    }
    assert_eq!(tree(server.root()), before);
    assert!(
        fs::metadata(server.path("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[tokio::test]
async fn link_inside_the_root_is_followed_and_kept() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::create_dir_all(server.path("real/folder")).unwrap();
    symlink("real/folder/file.txt", server.path("link.txt")).unwrap();
    symlink("../real/folder", server.path("real/up-and-down")).unwrap();
    fs::write(server.path("real/folder/file.txt"), "old").unwrap();

    assert_eq!(read(&mut files, "link.txt").await.text, "old");
    assert_eq!(write(&mut files, "link.txt", "new").await, WRITTEN);
    assert_eq!(
        fs::read_to_string(server.path("real/folder/file.txt")).unwrap(),
        "new"
    );
    assert!(server.path("link.txt").is_symlink());
    assert_eq!(
        read(&mut files, "real/up-and-down/file.txt").await.text,
        "new"
    );
    assert_eq!(
        write(&mut files, "real/up-and-down/other.txt", "other").await,
        WRITTEN
    );
    assert_eq!(
        fs::read_to_string(server.path("real/folder/other.txt")).unwrap(),
        "other"
    );
}

#[tokio::test]
async fn open_reader_keeps_the_old_version() {
    let server = TestServer::start();
    let mut files = server.files().await;
    write(&mut files, "a.txt", "old").await;
    let mut opened = fs::File::open(server.path("a.txt")).unwrap();
    write(&mut files, "a.txt", "new and longer").await;
    let mut content = String::new();
    opened.read_to_string(&mut content).unwrap();
    assert_eq!(content, "old");
}

#[tokio::test]
async fn replaced_file_keeps_permissions_without_setuid() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for (before, after) in [(0o600, 0o600), (0o444, 0o444), (0o6755, 0o755)] {
        let path = server.path("a.txt");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
        assert_eq!(write(&mut files, "a.txt", "new").await, WRITTEN);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, after);
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn server_directory_is_private() {
    let server = TestServer::start();
    for folder in [".muxs", ".muxs/writes"] {
        let mode = fs::metadata(server.path(folder))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
}

/// The second one is refused, in either order.
#[tokio::test]
async fn file_and_folder_of_one_name_exclude_each_other() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for round in 0..100 {
        let mut others = files.clone();
        let (file, below) = (format!("a{round}"), format!("a{round}/b"));
        let (file, below) = futures::join!(
            write(&mut files, &file, "text"),
            write(&mut others, &below, "text")
        );
        let (written, refused) = match file.code {
            0 => (file, below),
            _ => (below, file),
        };
        assert_eq!(written, WRITTEN);
        assert_write_failed(&refused, Code::FailedPrecondition, "NOT_A_FILE");
    }
}

#[tokio::test]
async fn concurrent_readers_see_whole_versions() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let versions = ["a".repeat(300_000), "b".repeat(100), "c".repeat(70_000)];
    write(&mut files, "a.txt", &versions[0]).await;
    let writer = async {
        let mut files = files.clone();
        for round in 0..30 {
            assert_eq!(
                write(&mut files, "a.txt", &versions[round % 3]).await,
                WRITTEN
            );
        }
    };
    let reader = async {
        let mut files = files.clone();
        for _ in 0..60 {
            let content = read(&mut files, "a.txt").await;
            assert!(content.failure.is_none(), "{:?}", content.failure);
            assert!(versions.contains(&content.text), "a mixture");
        }
    };
    futures::join!(writer, reader);
}

/// Repeats `change` on a thread while `test` runs.
async fn while_changing<T>(
    mut change: impl FnMut() + Send + 'static,
    test: impl Future<Output = T>,
) -> T {
    // The thread ends when the sender is dropped, also if the test panics.
    let (test_is_on, over) = std::sync::mpsc::channel::<()>();
    let changing = std::thread::spawn(move || {
        while over.try_recv() == Err(TryRecvError::Empty) {
            change();
        }
    });
    let result = test.await;
    drop(test_is_on);
    changing.join().unwrap();
    result
}

/// Reads a file until a read fails, and returns the failure.
async fn read_until_failure(files: &mut Client, filename: &str) -> Content {
    for _ in 0..500 {
        let content = read(files, filename).await;
        if content.failure.is_some() {
            return content;
        }
        let text = content.text.as_bytes();
        let whole = text.iter().all(|byte| Some(byte) == text.first());
        assert!(whole, "padding, or a mixture of versions");
    }
    panic!("every read succeeded");
}

#[tokio::test]
async fn file_growing_during_read_is_refused() {
    let server = TestServer::start();
    let path = server.path("growing");
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    let grow = move || {
        file.write_all(&[b'x'; 1000]).unwrap();
        if file.stream_position().unwrap() > 2_000_000 {
            file.set_len(0).unwrap();
        }
    };
    let mut files = server.files().await;
    let content = while_changing(grow, read_until_failure(&mut files, "growing")).await;
    assert_read_failed(&content, Code::Aborted, "FILE_CHANGED");
}

#[tokio::test]
async fn file_rewritten_during_read_is_refused() {
    let server = TestServer::start();
    let path = server.path("rewritten");
    let content = vec![b'x'; 2_000_000];
    fs::write(&path, &content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let rewrite = move || file.write_all_at(&content, 0).unwrap();
    let mut files = server.files().await;
    let content = while_changing(rewrite, read_until_failure(&mut files, "rewritten")).await;
    assert_read_failed(&content, Code::Aborted, "FILE_CHANGED");
}

/// A special file that replaces a file between lstat and open is neither waited for nor read.
#[tokio::test]
async fn file_replaced_by_a_special_file_during_open_is_refused() {
    let server = TestServer::start();
    let mut files = server.files().await;
    fs::write(server.path("a"), "text").unwrap();
    fs::write(server.path(".muxs/secret"), "secret").unwrap();
    symlink(".muxs/secret", server.path("link")).unwrap();
    make_fifo(&server.path("fifo"));
    for other in ["fifo", "link"] {
        let (file, other) = (server.path("a"), server.path(other));
        let exchange = move || {
            for _ in 0..2 {
                renameat_with(CWD, &file, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        };
        let reads = async {
            for _ in 0..2000 {
                let content = read(&mut files, "a").await;
                match content.failure {
                    None => assert_eq!(content.text, "text"),
                    Some(failure) => assert_ne!(failure.reason, "IO", "{failure:?}"),
                }
            }
        };
        while_changing(exchange, reads).await;
    }
}

#[tokio::test]
async fn stat_returns_size_time_and_etag() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let before = SystemTime::now() - Duration::from_secs(1);
    write(&mut files, "a/b.txt", "12345").await;
    let info = stat(&mut files, "a/b.txt").await.unwrap();
    assert_eq!((info.filename.as_str(), info.size), ("a/b.txt", 5));
    let modified: SystemTime = info.modified_at.unwrap().try_into().unwrap();
    assert!(before <= modified && modified <= SystemTime::now());
    assert!(info.etag.is_ascii() && !info.etag.is_empty() && info.etag.len() <= 128);
    assert_eq!(
        stat(&mut files, "a/b.txt").await.unwrap(),
        info,
        "it is the same version"
    );
}

#[tokio::test]
async fn each_version_has_its_own_etag() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let mut etags = std::collections::HashSet::new();
    for round in 0..100 {
        write(&mut files, "a.txt", "same").await;
        let info = stat(&mut files, "a.txt").await.unwrap();
        assert!(
            etags.insert(info.etag),
            "version {round} has the etag of another"
        );
    }
}

/// The kernel may stamp files by a coarse clock.
#[tokio::test]
async fn modification_time_is_exact() {
    let server = TestServer::start();
    let mut files = server.files().await;
    for _ in 0..100 {
        let before = SystemTime::now();
        write(&mut files, "a.txt", "same").await;
        let modified = fs::metadata(server.path("a.txt"))
            .unwrap()
            .modified()
            .unwrap();
        assert!(before <= modified && modified <= SystemTime::now());
    }
}

/// Another inode, another size or another time each make a new version.
#[tokio::test]
async fn file_changed_by_another_program_has_a_new_etag() {
    let server = TestServer::start();
    let mut files = server.files().await;
    let (path, other) = (server.path("a.txt"), server.path("b.txt"));
    let time = SystemTime::now();
    let stamp = |path, time| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    fs::write(&path, "text").unwrap();
    stamp(&path, time);
    let first = stat(&mut files, "a.txt").await.unwrap().etag;

    fs::write(&other, "TEXT").unwrap();
    stamp(&other, time);
    fs::rename(&other, &path).unwrap();
    let second = stat(&mut files, "a.txt").await.unwrap().etag;
    assert_ne!(second, first);

    fs::write(&path, "longer text").unwrap();
    stamp(&path, time);
    let third = stat(&mut files, "a.txt").await.unwrap().etag;
    assert_ne!(third, second);

    stamp(&path, time + Duration::from_nanos(1));
    let fourth = stat(&mut files, "a.txt").await.unwrap().etag;
    assert_ne!(fourth, third);
}

#[tokio::test]
async fn read_only_server_refuses_writes_and_touches_nothing() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.txt"), "old").unwrap();
    let before = tree(root.path());
    let server = TestServer::start_read_only(root);
    let mut files = server.files().await;
    for name in ["a.txt", "new.txt", "new/folder/file.txt"] {
        let status = write(&mut files, name, "new").await;
        assert_write_failed(&status, Code::PermissionDenied, "READ_ONLY");
    }
    assert_eq!(read(&mut files, "a.txt").await.text, "old");
    assert_eq!(stat(&mut files, "a.txt").await.unwrap().size, 3);
    assert_eq!(tree(server.root()), before);
}

#[tokio::test]
async fn root_has_one_writer_and_any_number_of_readers() {
    let server = TestServer::start();
    let second = Store::open(server.root(), Settings::default());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    assert!(Store::open(server.root(), Settings::read_only()).is_ok());
    assert!(Store::open(server.root(), Settings::read_only()).is_ok());
}

#[tokio::test]
async fn os_error_text_is_not_sent_to_the_client() {
    let server = TestServer::start();
    fs::remove_dir(server.path(".muxs/writes")).unwrap();
    let status = write(&mut server.files().await, "a.txt", "text").await;
    assert_write_failed(&status, Code::Internal, "IO");
    assert_eq!(
        status.failure.unwrap().message,
        "the server could not create the temporary file"
    );
    assert!(!server.path("a.txt").exists());
}

/// The shell's limit on file sizes makes a write fail half-way, like a full disk.
#[tokio::test]
async fn failed_write_on_a_full_disk_keeps_the_old_content() {
    let root = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -f 100; exec \"$0\" --listen 127.0.0.1:0 --root \"$1\"")
        .arg(env!("CARGO_BIN_EXE_server"))
        .arg(root.path());
    let program = Program::start_command(command).await;
    let mut files = program.files().await;
    assert_eq!(write(&mut files, "a.txt", "old").await, WRITTEN);
    let before = tree(root.path());
    let status = write(&mut files, "a.txt", &"x".repeat(1 << 20)).await;
    assert_write_failed(&status, Code::ResourceExhausted, "DISK_FULL");
    assert_eq!(tree(root.path()), before);
    assert_eq!(write(&mut files, "a.txt", "new").await, WRITTEN);
}
