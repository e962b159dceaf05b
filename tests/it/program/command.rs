//! `muxs put`, `get`, `stat` and `abort` as processes.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Output,
};

use assert_cmd::Command;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{
    Program, kill,
    program::{muxs, muxs_process},
    report_skip,
    scripted_server::{Action, ScriptedServer, connection_lost, failure, progress},
    transfer_dir::TransferDir,
    upload_stream::{UploadStream, content, open},
    with_timeout,
};

/// Starts a server, and creates a directory with a file.
async fn server_and_file() -> (Program, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(&folder.path().join("root")).await;
    fs::write(folder.path().join("file"), "some bytes").unwrap();
    (server, folder)
}

fn muxs_in(folder: &TempDir, server: &str, arguments: &[&str]) -> Command {
    let mut command = muxs(server);
    command.args(arguments).current_dir(folder);
    command
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Runs a command on another thread than that of a server in this process.
async fn output_of(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    with_timeout(output).await.unwrap()
}

fn json_lines(output: Vec<u8>) -> Vec<Value> {
    let lines = text(output);
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn put_get_and_stat_print_one_line() {
    let (server, folder) = server_and_file().await;
    let run = |arguments: &[&str]| {
        let output = muxs_in(&folder, &server.url, arguments).assert().success();
        assert_eq!(text(output.get_output().stderr.clone()), "");
        text(output.get_output().stdout.clone())
    };
    assert!(run(&["put", "file"]).starts_with("file sent: 10 B in "));
    assert!(run(&["put", "file", "a/b"]).starts_with("a/b sent: 10 B in "));
    assert!(run(&["get", "a/b"]).starts_with("a/b received: 10 B in "));
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"some bytes");
    let found = run(&["stat", "file"]);
    assert!(found.starts_with("file: 10 bytes, changed 2"), "{found}");
    assert!(found.contains("Z, etag "), "{found}");
    assert_eq!(run(&["get", "a/b", "copy", "--quiet"]), "");
    assert_eq!(fs::read(folder.path().join("copy")).unwrap(), b"some bytes");
    let again = run(&["put", "file"]);
    assert!(again == "file already there, unchanged: 10 B\n", "{again}");
}

#[tokio::test]
async fn folder_as_the_target_means_a_file_in_it() {
    let (server, folder) = server_and_file().await;
    let run = |arguments: &[&str]| {
        muxs_in(&folder, &server.url, arguments).assert().success();
    };
    run(&["put", "file", "a/b/"]);
    let stored = fs::read(folder.path().join("root/a/b/file")).unwrap();
    assert_eq!(stored, b"some bytes");
    fs::create_dir(folder.path().join("here")).unwrap();
    for (target, name) in [("here", "file"), ("here/", "file"), ("here/other", "other")] {
        run(&["get", "a/b/file", target]);
        let received = folder.path().join("here").join(name);
        assert_eq!(fs::read(&received).unwrap(), b"some bytes");
        fs::remove_file(received).unwrap();
    }
}

#[tokio::test]
async fn address_comes_from_the_environment() {
    let (server, folder) = server_and_file().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_muxs"));
    // On this machine, an address needs no scheme.
    command.env("MUXS_ADDR", server.address.to_string());
    command.args(["put", "file"]).current_dir(&folder);
    command.assert().success();
}

#[tokio::test]
async fn events_are_reported_in_json() {
    let (server, folder) = server_and_file().await;
    let run = |arguments: &[&str]| {
        let mut command = muxs_in(&folder, &server.url, arguments);
        json_lines(command.arg("--json").output().unwrap().stdout)
    };
    let sent = run(&["put", "file"]);
    assert_eq!(sent[0], json!({"event": "opened", "offset": 0, "size": 10}));
    let done = sent.last().unwrap();
    assert_eq!(
        (&done["event"], &done["size"]),
        (&"done".into(), &10.into())
    );
    assert!(done["seconds"].is_f64());
    assert_eq!(run(&["put", "file"])[0]["event"], "already_there");
    let found = &run(&["stat", "file"])[0];
    assert_eq!(found["etag"], done["etag"]);
    assert!(found["modified_at"].is_string());
    for (arguments, code, reason) in [
        (&["get", "missing"][..], json!(5), json!("NOT_FOUND")),
        (&["put", "missing"], json!(null), json!(null)),
        (&["abort", "file"], json!(5), json!("NOT_FOUND")),
    ] {
        let failed = &run(arguments)[0];
        assert_eq!(failed["event"], "failed");
        assert!(failed["error"].is_string());
        assert_eq!((&failed["code"], &failed["reason"]), (&code, &reason));
    }
}

#[tokio::test]
async fn transfers_go_through_pipes() {
    let (server, _folder) = server_and_file().await;
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|at| (at.wrapping_mul(at) >> 7) as u8)
        .collect();
    let mut put = muxs(&server.url);
    put.args(["put", "-", "piped"]).write_stdin(content.clone());
    put.assert().success();
    let get = muxs(&server.url).args(["get", "piped", "-"]).assert();
    let output = get.success().get_output().clone();
    assert!(output.stdout == content);
    let stderr = text(output.stderr);
    assert!(
        stderr.starts_with("piped received: 4.77 MiB in "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[tokio::test]
async fn get_with_a_closed_stdout_ends_quietly() {
    let (server, folder) = server_and_file().await;
    fs::write(folder.path().join("root/large"), vec![0; 5_000_000]).unwrap();
    let mut get = muxs_process(&server.url, &["get", "large", "-"]);
    let mut get = get.spawn().unwrap();
    drop(get.stdout.take());
    let output = with_timeout(get.wait_with_output()).await.unwrap();
    assert_eq!(text(output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn failure_prints_one_sentence_and_exits_with_code() {
    let (server, folder) = server_and_file().await;
    muxs_in(&folder, &server.url, &["put", "file", "name"])
        .assert()
        .success();
    fs::create_dir(folder.path().join("root/many")).unwrap();
    fs::create_dir(folder.path().join("many")).unwrap();
    let cases: [(&[&str], i32, &str); 17] = [
        (
            &["get", "missing"],
            69,
            "missing: not found on the server\n",
        ),
        (
            &["stat", "missing"],
            69,
            "missing: not found on the server\n",
        ),
        (
            &["stat", "many"],
            73,
            "many is not a file on the server; if it is a folder, name a file in it\n",
        ),
        (
            &["put", "file", "many"],
            73,
            "many is not a file on the server; if it is a folder, many/ puts the file into it\n",
        ),
        (
            &["get", "../up", "x"],
            67,
            "the server does not accept the name ../up: ",
        ),
        (
            &["put", "Cargo.toml", "name"],
            1,
            "there is no file Cargo.toml: check the name and its folder\n",
        ),
        (
            &["put", "many"],
            1,
            "many is a folder, and put takes one file: name a file in it, or send all of it with \
             `tar c many | muxs put - many.tar`\n",
        ),
        (
            &["put", "/dev/null", "name"],
            1,
            "/dev/null is not a regular file; `muxs put - name < /dev/null` sends what can be read \
             from it\n",
        ),
        (
            &["put", "file", "name", "--create-only"],
            70,
            "name exists on the server, and --create-only keeps it from being replaced\n",
        ),
        (
            &["get", "name", "away/"],
            1,
            "there is no folder away/: make it first\n",
        ),
        (
            &["get", "name", "away/x"],
            1,
            "there is no folder away: make it first\n",
        ),
        (
            &["put", "many/.."],
            1,
            "many/.. has no name that can be one on the server: say REMOTE\n",
        ),
        (&["put", "-"], 2, "the following required arguments"),
        (&["put", "-", "many/"], 2, "standard input has no name"),
        (&["get", "name", "-", "--json"], 2, "--json prints to"),
        (&["abort", "-"], 2, "no command continues an upload of"),
        (&["chat", "--json"], 2, "chat has no --json"),
    ];
    for (arguments, code, sentence) in cases {
        let mut command = muxs_in(&folder, &server.url, arguments);
        let output = command.assert().code(code);
        let stderr = text(output.get_output().stderr.clone());
        let sentence = format!("error: {sentence}");
        assert!(stderr.starts_with(&sentence), "{arguments:?}: {stderr}");
    }
    // Standard error is no terminal here.
    let mut command = muxs_in(&folder, &server.url, &["stat", "missing"]);
    let output = command.env("TERM", "xterm").output().unwrap();
    assert!(!output.stderr.contains(&0x1b));
}

/// The size of a file of `/proc` is 0, and that of one of `/sys` a page, whatever it has.
#[tokio::test]
async fn put_sends_a_file_whose_size_is_not_that_of_its_bytes() {
    let (server, folder) = server_and_file().await;
    // Some of the values change all the time.
    let keys = |text: String| -> Vec<String> {
        let lines = text.lines();
        lines
            .map(|line| line.split(':').next().unwrap().to_owned())
            .collect()
    };
    for source in [
        "/proc/cpuinfo",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        let Ok(expected) = fs::read_to_string(source) else {
            report_skip(&format!("there is no {source} here"));
            continue;
        };
        let mut put = muxs_in(&folder, &server.url, &["put", source, "name"]);
        put.assert().success();
        let stored = fs::read_to_string(folder.path().join("root/name")).unwrap();
        assert!(!stored.is_empty());
        assert_eq!(keys(stored), keys(expected));
    }
}

/// As `cp` refuses it, although the folder would let the caller replace it.
#[tokio::test]
async fn get_refuses_a_target_that_cannot_be_written() {
    const NOBODY_ID: u32 = 65_534;
    let (server, folder) = server_and_file().await;
    fs::write(folder.path().join("root/name"), "new").unwrap();
    // Others get in, to write here.
    let writable = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&folder, writable).unwrap();
    let target = folder.path().join("file");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o444)).unwrap();
    let mut get = std::process::Command::new(env!("CARGO_BIN_EXE_muxs"));
    get.args(["--addr", &server.url, "get", "name", "file"])
        .env_remove("MUXS_TOKEN")
        .current_dir(&folder);
    if rustix::process::geteuid().is_root() {
        get.uid(NOBODY_ID).gid(NOBODY_ID);
    }
    let output = match get.output() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            report_skip("another user may not run the programs here");
            return;
        }
        output => output.unwrap(),
    };
    let stderr = text(output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr, "error: cannot replace file: Permission denied\n");
    assert_eq!(fs::read(&target).unwrap(), b"some bytes");
    let left = fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn signal_interrupts_a_put() {
    let (server, folder) = server_and_file().await;
    for (signal, code, words) in [
        (Signal::INT, 130, "Interrupted.\n"),
        (Signal::TERM, 143, "Terminated.\n"),
    ] {
        let mut put = muxs_process(&server.url, &["put", "-", "name", "--json"]);
        let mut put = put.current_dir(&folder).spawn().unwrap();
        // It would be the end of the file.
        let _open = put.stdin.take();
        // The upload has begun.
        let mut lines = BufReader::new(put.stdout.take().unwrap()).lines();
        assert!(with_timeout(lines.next_line()).await.unwrap().is_some());
        kill(signal, put.id().unwrap());
        let output = with_timeout(put.wait_with_output()).await.unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(output.stderr), words);
    }
}

#[tokio::test]
async fn interrupted_put_of_a_file_says_how_it_continues() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server.on_write([progress(&place.content, 0), Action::Hang]);
    let mut put = muxs_process(&server.url(), &["put", "source", "--json"]);
    let mut put = put.current_dir(&place.folder).spawn().unwrap();
    let mut lines = BufReader::new(put.stdout.take().unwrap()).lines();
    assert!(with_timeout(lines.next_line()).await.unwrap().is_some());
    kill(Signal::TERM, put.id().unwrap());
    let output = with_timeout(put.wait_with_output()).await.unwrap();
    assert_eq!(
        text(output.stderr),
        "Terminated. The same command continues.\n"
    );
}

#[tokio::test]
async fn retry_is_reported_with_its_number_and_resumption() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    server
        .on_write([
            progress(&place.content, 0),
            Action::ReceiveChunks(5),
            Action::Fail(connection_lost()),
        ])
        .on_write(place.resume_actions(2048));
    let put = muxs_in(&place.folder, &server.url(), &["put", "source"]);
    let output = output_of(put).await;
    let stderr = text(output.stderr);
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("Retrying in 0."), "{stderr}");
    assert!(lines[0].contains(" s (2 of 8): "), "{stderr}");
    assert_eq!(lines[1], "Resumed at 2.00 KiB of 9.28 KiB.");
    let stdout = text(output.stdout);
    assert!(stdout.starts_with(" sent: 9.28 KiB in "), "{stdout}");
    assert!(stdout.ends_with(" without a connection)\n"), "{stdout}");
}

#[tokio::test]
async fn abort_discards_what_put_would_continue() {
    let place = TransferDir::new();
    let server = ScriptedServer::start().await;
    let run = |arguments: &'static [&'static str]| {
        output_of(muxs_in(&place.folder, &server.url(), arguments))
    };
    for flags in [
        &["put", "source", "a/"][..],
        &["put", "source", "a/source", "--create-only"],
    ] {
        let refused = failure(tonic::Code::FailedPrecondition, "TOO_LARGE");
        server.on_write([progress(&place.content, 0), Action::Fail(refused)]);
        let output = run(flags).await;
        assert_eq!(output.status.code(), Some(73));
    }
    let output = run(&["abort", "source", "a/"]).await;
    assert_eq!(
        text(output.stdout),
        "a/source: the unfinished upload is discarded\n"
    );
    assert_eq!(output.status.code(), Some(0));
    let script = server.script();
    let opened: Vec<_> = script.opens.iter().map(|open| &open.upload_id).collect();
    assert_eq!(script.aborts.iter().collect::<Vec<_>>(), opened);
}

#[tokio::test]
async fn abort_by_id_discards_another_clients_upload() {
    let (server, folder) = server_and_file().await;
    let mut files = server.files().await;
    let content = content(100_000);
    let mut stream = UploadStream::open(&mut files, open("name", "the-id", &content)).await;
    stream.progress().await;
    stream.chunk(0, &content[..50_000]).await;
    stream.wait_persisted(50_000).await;
    let mut abort = muxs_in(
        &folder,
        &server.url,
        &["abort", "--upload-id", "the-id", "name"],
    );
    abort
        .assert()
        .success()
        .stdout("name: the unfinished upload is discarded\n");
    let output = abort.assert().code(69);
    assert_eq!(
        text(output.get_output().stderr.clone()),
        "error: no unfinished upload of name on the server\n"
    );
}

#[test]
fn version_is_printed() {
    let version = format!("muxs {}\n", env!("CARGO_PKG_VERSION"));
    muxs("http://127.0.0.1:1")
        .arg("--version")
        .assert()
        .success()
        .stdout(version);
}

#[test]
fn help_lists_commands_events_and_exit_codes() {
    let help = |arguments: &[&str]| {
        let output = muxs("http://127.0.0.1:1").args(arguments).assert();
        text(output.success().get_output().stdout.clone())
    };
    let all = help(&["--help"]);
    for word in [
        "put",
        "get",
        "stat",
        "abort",
        "chat",
        "MUXS_ADDR",
        "--ca",
        "--token-file",
        "already_there",
        "Exit codes",
    ] {
        assert!(all.contains(word), "{word}: {all}");
    }
    // Access tokens are left to the long help.
    let put = help(&["put", "-h"]);
    assert!(put.contains("--create-only"), "{put}");
    assert!(!put.contains("--token-file"), "{put}");
    assert!(help(&["put", "--help"]).contains("--token-file"));
}
