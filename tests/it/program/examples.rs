//! The examples as processes.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
};

use assert_cmd::Command;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::support::{
    Program, kill,
    program::{example, examples_dir},
    report_skip, with_timeout,
};

/// A privileged port of the loopback interface without a listener.
const NOBODY: [&str; 2] = ["--addr", "http://127.0.0.1:1"];

#[test]
fn hello_calls_every_shape_on_its_own_server() {
    let output = example("hello")
        .args(NOBODY)
        .assert()
        .success()
        .get_output()
        .clone();
    let replies = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = replies.lines().collect();
    assert_eq!(lines[..2], ["Hello, you!"; 2]);
    assert_eq!(lines[6], "Hello, Ada, Grace, Edsger and 2 others!");
    assert_eq!(
        lines[7..10],
        ["Hello, Ada!", "Hello, Grace!", "Hello, Edsger!"]
    );
    // The deadline that is met, the reply before the missed deadline, and its error.
    assert_eq!(
        lines[10..],
        [
            "Hello, you!",
            "Hello, you!",
            "DeadlineExceeded: the deadline of the call has passed"
        ]
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("Nothing listens at http://127.0.0.1:1, so"),
        "{stderr}"
    );
}

#[tokio::test]
async fn hello_uses_the_given_server() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let address = format!("http://{}", program.address);
    let output = example("hello")
        .args(["--addr", &address])
        .assert()
        .success()
        .get_output()
        .clone();
    assert!(output.stdout.starts_with(b"Hello, you!\n"));
    assert!(
        !String::from_utf8(output.stderr)
            .unwrap()
            .contains("Nothing listens")
    );
}

#[test]
fn piped_chat_prints_one_line_per_line() {
    example("bidi_chat")
        .args(NOBODY)
        .write_stdin("Ada\n\nGrace")
        .assert()
        .success()
        .stdout("Hello, Ada!\nHello, !\nHello, Grace!\n");
    example("bidi_chat")
        .args(NOBODY)
        .write_stdin("")
        .assert()
        .success()
        .stdout("");
}

/// Four megabytes, far more than all buffers between the ends hold.
#[test]
fn long_piped_chat_does_not_deadlock() {
    let names = (0..20_000).map(|number| format!("{number:0200}"));
    let input: String = names.clone().map(|name| name + "\n").collect();
    let replies: String = names.map(|name| format!("Hello, {name}!\n")).collect();
    let chat = example("bidi_chat")
        .args(NOBODY)
        .write_stdin(input)
        .assert();
    assert!(chat.success().get_output().stdout == replies.as_bytes());
}

#[test]
fn failing_piped_chat_prints_one_sentence() {
    let input = format!("Ada\n{}\n", "x".repeat(5000));
    let output = example("bidi_chat")
        .args(NOBODY)
        .write_stdin(input)
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert_eq!(output.stdout, b"Hello, Ada!\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let last = stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "The call failed with InvalidArgument: the name has 5000 bytes, the most is 4096."
    );
}

/// The pipe stays open: neither end waits for the other to close it.
#[tokio::test]
async fn chat_over_open_pipes_answers_line_by_line() {
    let mut chat = chat();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    for name in ["Ada", "Grace"] {
        input
            .write_all(format!("{name}\n").as_bytes())
            .await
            .unwrap();
        let reply = with_timeout(replies.next_line()).await.unwrap();
        assert_eq!(reply, Some(format!("Hello, {name}!")));
    }
    let too_long = "x".repeat(5000) + "\n";
    input.write_all(too_long.as_bytes()).await.unwrap();
    assert_eq!(with_timeout(replies.next_line()).await.unwrap(), None);
    assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn chat_with_a_closed_stdout_ends_quietly() {
    let mut chat = chat();
    drop(chat.stdout.take());
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"Ada\n").await.unwrap();
    assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn ctrl_c_cancels_a_piped_chat() {
    let mut chat = chat();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    input.write_all(b"Ada\n").await.unwrap();
    assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
    kill(Signal::INT, chat.id().unwrap());
    assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(130));
}

fn chat() -> tokio::process::Child {
    tokio::process::Command::new(examples_dir().join("bidi_chat"))
        .args(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Runs `stream_file` against a server.
fn stream_file(server: &Program, arguments: &[&str]) -> Command {
    let mut command = example("stream_file");
    command
        .args(["--addr", &format!("http://{}", server.address)])
        .args(arguments);
    command
}

/// Starts a server, and creates a directory with a file.
async fn server_and_file() -> (Program, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(&folder.path().join("root")).await;
    fs::write(folder.path().join("file"), "some bytes").unwrap();
    (server, folder)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn stream_file_resumes_a_cut_transfer_on_its_own_server() {
    let mut command = example("stream_file");
    let output = command.args(NOBODY).args(["--size", "8MiB"]).assert();
    let output = output.success().get_output().clone();
    let table = text(output.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[1].starts_with("upload, cut half-way"), "{table}");
    assert!(rows[2].starts_with("download"), "{table}");
    let stderr = text(output.stderr);
    let lost = "the connection to the server was lost.";
    assert!(stderr.contains(lost), "{stderr}");
    assert!(
        stderr.contains("\nThe copy has the same bytes."),
        "{stderr}"
    );
}

#[tokio::test]
async fn stream_file_put_and_get_print_one_line() {
    let (server, folder) = server_and_file().await;
    let run = |arguments: &[&str]| {
        let mut command = stream_file(&server, arguments);
        let output = command.current_dir(&folder).assert().success();
        text(output.get_output().stdout.clone())
    };
    assert!(run(&["put", "file"]).starts_with("file sent: 10 B in "));
    assert!(run(&["put", "file", "a/b"]).starts_with("a/b sent: 10 B in "));
    assert!(run(&["get", "a/b"]).starts_with("a/b received: 10 B in "));
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"some bytes");
    assert!(run(&["stat", "file"]).starts_with("file: 10 bytes (10 B), etag "));
    assert_eq!(run(&["get", "a/b", "copy", "--quiet"]), "");
    assert_eq!(fs::read(folder.path().join("copy")).unwrap(), b"some bytes");
}

#[tokio::test]
async fn stream_file_reports_events_in_json() {
    let (server, folder) = server_and_file().await;
    let run = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let mut command = stream_file(&server, arguments);
        let output = command.arg("--json").current_dir(&folder).output().unwrap();
        let lines = text(output.stdout);
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let sent = run(&["put", "file"]);
    assert_eq!(
        sent[0],
        serde_json::json!({"event": "opened", "offset": 0, "size": 10})
    );
    let done = sent.last().unwrap();
    assert_eq!(
        (&done["event"], &done["size"]),
        (&"done".into(), &10.into())
    );
    assert_eq!(run(&["put", "file"])[0]["event"], "already_there");
    assert_eq!(run(&["stat", "file"])[0]["etag"], done["etag"]);
    let failed = &run(&["get", "missing"])[0];
    assert_eq!(failed["event"], "failed");
    assert_eq!(
        (&failed["code"], &failed["reason"]),
        (&5.into(), &"NOT_FOUND".into())
    );
}

#[tokio::test]
async fn stream_file_transfers_through_pipes() {
    let (server, _folder) = server_and_file().await;
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|at| (at.wrapping_mul(at) >> 7) as u8)
        .collect();
    let mut put = stream_file(&server, &["put", "-", "piped"]);
    put.write_stdin(content.clone()).assert().success();
    let get = stream_file(&server, &["get", "piped", "-"]).assert();
    assert!(get.success().get_output().stdout == content);
}

#[tokio::test]
async fn stream_file_with_a_closed_stdout_ends_quietly() {
    let (server, folder) = server_and_file().await;
    fs::write(folder.path().join("root/large"), vec![0; 5_000_000]).unwrap();
    let mut get = tokio::process::Command::new(examples_dir().join("stream_file"));
    let mut get = get
        .args(["get", "large", "-", "--addr"])
        .arg(format!("http://{}", server.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(get.stdout.take());
    let output = with_timeout(get.wait_with_output()).await.unwrap();
    assert_eq!(text(output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test]
async fn stream_file_failure_prints_one_sentence_and_exits_with_code() {
    let (server, folder) = server_and_file().await;
    let first = stream_file(&server, &["put", "file", "name"]);
    { first }.current_dir(&folder).assert().success();
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["get", "missing"],
            69,
            "Failed: the server answered NotFound: no such file.\n",
        ),
        (
            &["get", "../up", "x"],
            67,
            "Failed: the server answered InvalidArgument: ",
        ),
        (
            &["put", "Cargo.toml", "name", "--create-only"],
            1,
            "Failed: cannot open Cargo.toml: No such file or directory (os error 2).\n",
        ),
        (
            &["put", "file", "name", "--create-only"],
            70,
            "Failed: the server answered AlreadyExists: ",
        ),
        (&["put", "-"], 2, "error: "),
        (&["get", "name", "-", "--json"], 2, "error: "),
    ];
    for (arguments, code, sentence) in cases {
        let mut command = stream_file(&server, arguments);
        let output = command.current_dir(&folder).assert().code(code);
        let stderr = text(output.get_output().stderr.clone());
        assert!(stderr.starts_with(sentence), "{stderr}");
    }
}

/// The size of a file of `/proc` is 0, and that of one of `/sys` a page, whatever it has.
#[tokio::test]
async fn stream_file_put_sends_a_file_whose_size_is_not_that_of_its_bytes() {
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
        let mut put = stream_file(&server, &["put", source, "name"]);
        put.assert().success();
        let stored = fs::read_to_string(folder.path().join("root/name")).unwrap();
        assert!(!stored.is_empty());
        assert_eq!(keys(stored), keys(expected));
    }
}

/// As `cp` refuses it, although the folder would let the caller replace it.
#[tokio::test]
async fn stream_file_get_refuses_a_target_that_cannot_be_written() {
    const NOBODY_ID: u32 = 65_534;
    let (server, folder) = server_and_file().await;
    fs::write(folder.path().join("root/name"), "new").unwrap();
    // Others get in, to write here.
    let writable = fs::Permissions::from_mode(0o777);
    fs::set_permissions(&folder, writable).unwrap();
    let target = folder.path().join("file");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o444)).unwrap();
    let mut get = std::process::Command::new(examples_dir().join("stream_file"));
    get.args(["get", "name", "file", "--addr"])
        .arg(format!("http://{}", server.address))
        .current_dir(&folder);
    if rustix::process::geteuid().is_root() {
        get.uid(NOBODY_ID).gid(NOBODY_ID);
    }
    let output = match get.output() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            report_skip("another user may not run the examples here");
            return;
        }
        output => output.unwrap(),
    };
    let stderr = text(output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(
        stderr,
        "Failed: cannot replace file: Permission denied (os error 13).\n"
    );
    assert_eq!(fs::read(&target).unwrap(), b"some bytes");
    let left = fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 2);
}

#[test]
fn stream_file_put_starts_no_temporary_server() {
    let puts: [&[&str]; 3] = [&["put", "Cargo.toml"], &["get", "a", "b"], &["stat", "a"]];
    for arguments in puts {
        let mut command = example("stream_file");
        let output = command.args(NOBODY).args(arguments).assert().code(78);
        let stderr = text(output.get_output().stderr.clone());
        assert_eq!(
            stderr,
            "Failed: nothing listens at http://127.0.0.1:1. Start a server there with `cargo run \
             --bin server`.\n"
        );
    }
}

#[tokio::test]
async fn ctrl_c_interrupts_a_put() {
    let (server, _folder) = server_and_file().await;
    let mut put = tokio::process::Command::new(examples_dir().join("stream_file"))
        .args(["put", "-", "name", "--json", "--addr"])
        .arg(format!("http://{}", server.address))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The upload has begun.
    let mut lines = BufReader::new(put.stdout.take().unwrap()).lines();
    assert!(with_timeout(lines.next_line()).await.unwrap().is_some());
    kill(Signal::INT, put.id().unwrap());
    assert_eq!(with_timeout(put.wait()).await.unwrap().code(), Some(130));
}
