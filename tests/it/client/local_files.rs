//! What downloads do to local files: to those that they replace, and to those that are in the way.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    future::IntoFuture,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::Path,
};

use muxs::{client::Error, pb::FileInfo};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tonic::Status;

use crate::support::{
    report_skip,
    scripted_server::{MAX_CHUNK, ReadAction, ScriptedServer, events_from},
    transfer_dir::{TransferDir, names},
    tree, with_timeout,
};

/// Downloads the content of `place` to its target.
async fn download(place: &TransferDir) -> FileInfo {
    let server = ScriptedServer::start().await;
    server.on_read(events_from(&place.content, "etag", 0));
    let download = server.client().download("name", place.target());
    with_timeout(download.into_future()).await.unwrap()
}

/// Receives a part of the content of `place`, and fails.
async fn interrupted_download(place: &TransferDir) {
    let server = ScriptedServer::start().await;
    let mut cut = events_from(&place.content, "etag", 0);
    cut.truncate(6);
    cut.push(ReadAction::Fail(Status::permission_denied("")));
    server.on_read(cut);
    let download = server.client().download("name", place.target());
    with_timeout(download.into_future()).await.unwrap_err();
}

/// Asserts that a download fails before any call, and that it changes no file.
async fn assert_refused(place: &TransferDir) -> Error {
    let before = tree(place.folder.path());
    let server = ScriptedServer::start().await;
    server.on_read(events_from(&place.content, "etag", 0));
    let download = server.client().download("name", place.target());
    let error = with_timeout(download.into_future()).await.unwrap_err();
    assert_eq!(error.code(), None, "{error}");
    assert!(server.script().read_requests.is_empty());
    assert!(tree(place.folder.path()) == before, "{error}");
    error
}

async fn assert_foreign(place: &TransferDir, name: &str) {
    let error = assert_refused(place).await;
    let advice = "was not made by a download: move it away, or choose another name";
    let expected = format!("{} {advice}", place.path(name).display());
    assert_eq!(error.to_string(), expected);
}

fn mkfifo(path: &Path) {
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn part_that_no_download_made_is_left_alone() {
    let occupy: [fn(&Path, &Path); 7] = [
        |part, _| fs::write(part, "precious").unwrap(),
        |part, other| symlink(other, part).unwrap(),
        |part, _| symlink("nothing", part).unwrap(),
        |part, other| {
            fs::write(other, "").unwrap();
            fs::hard_link(other, part).unwrap();
        },
        |part, _| fs::create_dir(part).unwrap(),
        |part, _| mkfifo(part),
        |part, _| drop(UnixListener::bind(part).unwrap()),
    ];
    for occupy in occupy {
        let place = TransferDir::new();
        fs::write(place.path("other"), "precious").unwrap();
        occupy(&place.path("target.part"), &place.path("other"));
        assert_foreign(&place, "target.part").await;
    }
}

#[tokio::test]
async fn state_that_no_download_made_is_left_alone() {
    let occupy: [fn(&Path, &Path); 3] = [
        |state, _| fs::write(state, "precious").unwrap(),
        |state, other| symlink(other, state).unwrap(),
        |state, _| mkfifo(state),
    ];
    for name in ["target.part.json", "target.part.json.new"] {
        for occupy in occupy {
            let place = TransferDir::new();
            fs::write(place.path("other"), "precious").unwrap();
            occupy(&place.path(name), &place.path("other"));
            assert_foreign(&place, name).await;
        }
    }
    let place = TransferDir::new();
    fs::write(place.path("target.part.json"), "{\"filename\":\"name\"}").unwrap();
    assert_foreign(&place, "target.part.json").await;
}

/// The state of an interrupted download does not make any other file its part.
#[tokio::test]
async fn part_is_foreign_without_the_state_that_describes_it() {
    let spoil: [fn(&TransferDir) -> &'static str; 3] = [
        |place| {
            fs::remove_file(place.path("target.part.json")).unwrap();
            "target.part"
        },
        |place| {
            fs::write(place.path("target.part.json"), "{").unwrap();
            "target.part.json"
        },
        |place| {
            fs::copy(place.path("target.part"), place.path("new")).unwrap();
            fs::rename(place.path("new"), place.path("target.part")).unwrap();
            "target.part"
        },
    ];
    for spoil in spoil {
        let place = TransferDir::new();
        interrupted_download(&place).await;
        let foreign = spoil(&place);
        assert_foreign(&place, foreign).await;
    }
}

/// A file that is removed leaves its inode to another. The time of the creation tells them apart.
#[tokio::test]
async fn part_of_the_same_inode_is_foreign() {
    let place = TransferDir::new();
    interrupted_download(&place).await;
    let (part, state) = (place.path("target.part"), place.path("target.part.json"));
    fs::remove_file(&part).unwrap();
    fs::write(&part, "precious").unwrap();
    let found = fs::metadata(&part).unwrap();
    if found.created().is_err() {
        report_skip("this filesystem keeps no time of creation");
        return;
    }
    let mut described: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    described["part"]["inode"] = found.ino().into();
    fs::write(&state, described.to_string()).unwrap();
    assert_foreign(&place, "target.part").await;
}

/// A part whose download is killed is not foreign to the next.
#[tokio::test]
async fn state_is_there_before_the_first_byte() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let mut hanging = events_from(&place.content, "etag", 0);
    hanging.truncate(2);
    hanging.push(ReadAction::Hang);
    server.on_read(hanging);
    let client = server.client();
    let (part, state) = (place.path("target.part"), place.path("target.part.json"));
    let begun = async {
        while !fs::metadata(&part).is_ok_and(|part| part.len() > 0) {
            tokio::task::yield_now().await;
        }
        state.exists()
    };
    tokio::select! {
        _ = client.download("name", place.target()).into_future() => panic!("the server hangs"),
        is_described = with_timeout(begun) => assert!(is_described),
    }
    download(&place).await;
    place.assert_received();
}

#[tokio::test]
async fn state_that_was_being_written_is_no_obstacle() {
    for left in [&b""[..], b"{\"filename\":\"na", &[0; 10]] {
        let place = TransferDir::new();
        fs::write(place.path("target.part.json.new"), left).unwrap();
        download(&place).await;
        place.assert_received();
    }
}

#[tokio::test]
async fn replaced_target_keeps_its_mode() {
    for (before, after) in [(0o600, 0o600), (0o664, 0o664), (0o6751, 0o751)] {
        let place = TransferDir::new();
        fs::write(place.target(), "old").unwrap();
        set_mode(&place.target(), before);
        download(&place).await;
        place.assert_received();
        assert_eq!(mode(&place.target()), after);
    }
}

/// What others may not read does not become readable while it is received.
#[tokio::test]
async fn part_is_readable_by_its_owner_only() {
    let place = TransferDir::new();
    interrupted_download(&place).await;
    assert_eq!(mode(&place.path("target.part")), 0o600);
}

#[tokio::test]
async fn new_target_has_the_mode_of_new_files() {
    let place = TransferDir::new();
    File::create(place.path("new")).unwrap();
    let expected = mode(&place.path("new"));
    fs::remove_file(place.path("new")).unwrap();
    download(&place).await;
    assert_eq!(mode(&place.target()), expected);

    // The target is removed after a download to it was interrupted.
    set_mode(&place.target(), 0o600);
    interrupted_download(&place).await;
    fs::remove_file(place.target()).unwrap();
    let server = ScriptedServer::start().await;
    server.on_read(events_from(&place.content, "etag", 5 * MAX_CHUNK));
    let resumed = server.client().download("name", place.target());
    with_timeout(resumed.into_future()).await.unwrap();
    place.assert_received();
    assert_eq!(mode(&place.target()), expected);
}

#[tokio::test]
async fn replaced_target_keeps_its_owner() {
    let place = TransferDir::new();
    fs::write(place.target(), "old").unwrap();
    if chown(place.target(), Some(65_534), Some(65_533)).is_err() {
        report_skip("only root may give files away");
        return;
    }
    set_mode(&place.target(), 0o640);
    download(&place).await;
    let target = fs::metadata(place.target()).unwrap();
    assert_eq!((target.uid(), target.gid()), (65_534, 65_533));
    assert_eq!(target.mode() & 0o7777, 0o640);
}

#[tokio::test]
async fn target_of_a_symbolic_link_is_replaced() {
    let place = TransferDir::new();
    fs::create_dir(place.path("real")).unwrap();
    let file = place.path("real/file");
    fs::write(&file, "old").unwrap();
    set_mode(&file, 0o600);
    symlink("link", place.target()).unwrap();
    symlink("real/file", place.path("link")).unwrap();
    interrupted_download(&place).await;
    assert!(place.path("real/file.part").exists());
    assert_eq!(fs::read(&file).unwrap(), b"old");

    let server = ScriptedServer::start().await;
    server.on_read(events_from(&place.content, "etag", 5 * MAX_CHUNK));
    let resumed = server.client().download("name", place.target());
    with_timeout(resumed.into_future()).await.unwrap();
    assert_eq!(fs::read_link(place.target()).unwrap(), Path::new("link"));
    assert!(fs::read(&file).unwrap() == place.content);
    assert_eq!(mode(&file), 0o600);
    let real = fs::read_dir(place.path("real")).unwrap();
    let real: Vec<_> = real.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(real, [OsStr::new("file")]);
    let mut left = names(&place.folder);
    left.sort();
    assert_eq!(left, ["link", "real", "source", "target"]);
}

#[tokio::test]
async fn target_that_is_no_file_is_refused() {
    let occupy: [fn(&Path) -> &'static str; 4] = [
        |target| {
            symlink("nothing", target).unwrap();
            "it is a symbolic link that leads to no file"
        },
        |target| {
            symlink("/dev/null", target).unwrap();
            "not a regular file"
        },
        |target| {
            mkfifo(target);
            "not a regular file"
        },
        |target| {
            fs::create_dir(target).unwrap();
            "is a directory"
        },
    ];
    for occupy in occupy {
        let place = TransferDir::new();
        let why = occupy(&place.target());
        let error = assert_refused(&place).await;
        let Error::Local { source, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.to_string(), why);
    }
}
