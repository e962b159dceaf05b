//! `muxs chat` as a process, in pipes. `tests/interop/test_chat_terminal.py` has the tests on a terminal.

use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Child,
};

use crate::support::{
    Program, kill,
    program::{muxs, muxs_process},
    with_timeout,
};

async fn server() -> (Program, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    (Program::start(root.path()).await, root)
}

#[tokio::test]
async fn piped_chat_prints_one_line_per_line() {
    let (server, _root) = server().await;
    for (input, output) in [
        ("Ada\n\nGrace", "Hello, Ada!\nHello, !\nHello, Grace!\n"),
        ("", ""),
    ] {
        let mut chat = muxs(&server.url);
        let chat = chat.arg("chat").write_stdin(input).assert();
        chat.success().stdout(output).stderr("");
    }
}

/// Four megabytes, far more than all buffers between the ends hold.
#[tokio::test]
async fn long_piped_chat_does_not_deadlock() {
    let (server, _root) = server().await;
    let names = (0..20_000).map(|number| format!("{number:0200}"));
    let input: String = names.clone().map(|name| name + "\n").collect();
    let replies: String = names.map(|name| format!("Hello, {name}!\n")).collect();
    let chat = muxs(&server.url).arg("chat").write_stdin(input).assert();
    assert!(chat.success().get_output().stdout == replies.as_bytes());
}

#[tokio::test]
async fn refused_name_ends_a_piped_chat_with_one_sentence() {
    let (server, _root) = server().await;
    let input = format!("Ada\n{}\n", "x".repeat(5000));
    let output = muxs(&server.url)
        .arg("chat")
        .write_stdin(input)
        .assert()
        .code(1)
        .get_output()
        .clone();
    assert_eq!(output.stdout, b"Hello, Ada!\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let words = "error: the server refuses the name: ";
    assert!(stderr.starts_with(words), "{stderr}");
    assert!(stderr.contains("5000 bytes"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}

/// The pipe stays open: neither end waits for the other to close it.
#[tokio::test]
async fn chat_over_open_pipes_answers_line_by_line() {
    let (server, _root) = server().await;
    let chat = muxs_process(&server.url, &["chat"]).spawn().unwrap();
    assert_answers_line_by_line(chat).await;
}

/// Asserts that a chat answers each name before the next one, and fails at a name that is too long.
pub(super) async fn assert_answers_line_by_line(mut chat: Child) {
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
    let (server, _root) = server().await;
    let mut chat = muxs_process(&server.url, &["chat"]).spawn().unwrap();
    drop(chat.stdout.take());
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"Ada\n").await.unwrap();
    let output = with_timeout(chat.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[tokio::test]
async fn signal_cancels_a_piped_chat() {
    let (server, _root) = server().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut chat = muxs_process(&server.url, &["chat"]).spawn().unwrap();
        let mut input = chat.stdin.take().unwrap();
        let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
        input.write_all(b"Ada\n").await.unwrap();
        assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
        kill(signal, chat.id().unwrap());
        assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(code));
    }
}

#[tokio::test]
async fn chat_reports_that_the_server_stops() {
    let (mut server, _root) = server().await;
    let mut chat = muxs_process(&server.url, &["chat"]).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    let mut messages = BufReader::new(chat.stderr.take().unwrap()).lines();
    input.write_all(b"Ada\n").await.unwrap();
    assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
    server.signal(Signal::TERM);
    let message = with_timeout(messages.next_line()).await.unwrap();
    let expected = "The server is stopping, and may end this chat soon.";
    assert_eq!(message.as_deref(), Some(expected));
    // The drain waits for the chat, which goes on.
    input.write_all(b"Grace\n").await.unwrap();
    assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
    drop(input);
    assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(0));
    assert!(server.wait_end().await.success());
}

#[tokio::test]
async fn killed_server_ends_a_chat_with_one_sentence() {
    let (server, _root) = server().await;
    let mut chat = muxs_process(&server.url, &["chat"]).spawn().unwrap();
    let mut input = chat.stdin.take().unwrap();
    let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
    input.write_all(b"Ada\n").await.unwrap();
    assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
    server.signal(Signal::KILL);
    let output = with_timeout(chat.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr,
        "error: the server went away: start the chat again once it is back\n"
    );
}
