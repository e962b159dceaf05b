//! The examples, run as a newcomer would.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
};

use assert_cmd::Command;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::support::{PATIENCE, Program, bounded, kill};

/// The folder of the built examples. `cargo test` has built them; a run of this test alone may not
/// have.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_server")).with_file_name("examples");
        let mut build = std::process::Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--examples"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.parent().unwrap().ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        folder
    })
}

fn example(name: &str) -> Command {
    let mut command = Command::new(built().join(name));
    command.timeout(PATIENCE);
    command
}

/// Nothing listens on this port of the loopback interface; to take it, one would have to be root on
/// purpose.
const NOBODY: [&str; 2] = ["--addr", "http://127.0.0.1:1"];

#[test]
fn hello_walks_through_the_shapes_with_a_server_of_its_own() {
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
        lines[7..],
        ["Hello, Ada!", "Hello, Grace!", "Hello, Edsger!"]
    );
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("Nothing listens at http://127.0.0.1:1, so"),
        "{told}"
    );
}

#[tokio::test]
async fn hello_uses_the_server_it_is_given() {
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
fn a_piped_chat_answers_a_line_with_a_line_and_nothing_else() {
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

/// Four megabytes, far more than all buffers on the way hold.
#[test]
fn a_piped_chat_of_any_length_does_not_get_stuck() {
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
fn a_piped_chat_that_fails_says_why_in_one_sentence() {
    let input = format!("Ada\n{}\n", "x".repeat(5000));
    let output = example("bidi_chat")
        .args(NOBODY)
        .write_stdin(input)
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert_eq!(output.stdout, b"Hello, Ada!\n");
    let told = String::from_utf8(output.stderr).unwrap();
    let last = told.lines().last().unwrap();
    assert_eq!(
        last,
        "The call failed with InvalidArgument: the name has 5000 bytes, the most is 4096."
    );
}

/// The other end of the pipe stays open: neither waits for the other to hang up.
#[tokio::test]
async fn a_chat_over_open_pipes_answers_line_by_line_and_ends_with_the_call() {
    let mut chat = chat();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    for name in ["Ada", "Grace"] {
        input
            .write_all(format!("{name}\n").as_bytes())
            .await
            .unwrap();
        let reply = bounded(replies.next_line()).await.unwrap();
        assert_eq!(reply, Some(format!("Hello, {name}!")));
    }
    let too_long = "x".repeat(5000) + "\n";
    input.write_all(too_long.as_bytes()).await.unwrap();
    assert_eq!(bounded(replies.next_line()).await.unwrap(), None);
    assert_eq!(bounded(chat.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_chat_whose_reader_has_had_enough_ends_quietly() {
    let mut chat = chat();
    drop(chat.stdout.take());
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"Ada\n").await.unwrap();
    assert_eq!(bounded(chat.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn ctrl_c_cancels_a_piped_chat() {
    let mut chat = chat();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    input.write_all(b"Ada\n").await.unwrap();
    assert!(bounded(replies.next_line()).await.unwrap().is_some());
    kill(Signal::INT, chat.id().unwrap());
    assert_eq!(bounded(chat.wait()).await.unwrap().code(), Some(130));
}

fn chat() -> tokio::process::Child {
    tokio::process::Command::new(built().join("bidi_chat"))
        .args(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
