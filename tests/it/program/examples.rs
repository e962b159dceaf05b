//! The examples as processes: what they print, and one sentence for each kind of bad server.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Output, Stdio},
    thread,
};

use muxs::server::ClientAuth;
use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Child,
};

use super::chat::assert_answers_line_by_line;
use crate::support::{
    Program, TestServer,
    auth::server_with_key,
    kill,
    pki::Pki,
    program::{example, examples_dir},
    report_skip,
    signing::rsa,
    with_timeout,
};

/// The examples that call a server, and have its URL as an argument.
const CLIENTS: [&str; 5] = ["hello", "bidi_chat", "stream_file", "deadlines", "errors"];

const ADVICE: &str = "`cargo run --bin server` starts a server; https:// is for one with TLS.";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs an example to its end, with exit code 0.
#[track_caller]
fn run(name: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = example(name);
    let output = command.args(arguments).write_stdin(input).assert();
    output.success().get_output().clone()
}

fn url(server: &TestServer) -> String {
    format!("http://{}", server.address)
}

/// The lines of standard output, without their indentation.
fn lines(output: &Output) -> Vec<&str> {
    text(&output.stdout).lines().map(str::trim).collect()
}

/// Asserts that the lines contain these texts, in this order.
#[track_caller]
fn assert_in_order(lines: &[&str], texts: &[&str]) {
    let mut rest = lines.iter();
    for text in texts {
        assert!(
            rest.any(|line| line.contains(text)),
            "no {text:?} in its place: {lines:#?}"
        );
    }
}

#[test]
fn hello_calls_every_shape_and_exceeds_a_deadline() {
    let server = TestServer::start();
    let output = run("hello", &[&url(&server)], "");
    let replies = lines(&output);
    assert_eq!(
        replies[..4],
        ["Hello, you!", "Hello, you!", "你好，you！", "नमस्ते, you!"]
    );
    assert_eq!(
        replies[6..],
        [
            "Hello, Ada, Grace, Edsger and 2 others!",
            "Hello, Ada!",
            "Hello, Grace!",
            "Hello, Edsger!",
            // The deadline that is met, and the one that is exceeded after a first reply.
            "Hello, you!",
            "Hello, you!",
            "DeadlineExceeded: the deadline of the call has passed",
        ]
    );
    assert!(text(&output.stderr).contains("\n  → Ada\n"));
    let headings = text(&output.stderr)
        .lines()
        .filter(|line| line.contains(": "));
    assert_eq!(headings.count(), 6, "{}", text(&output.stderr));
}

#[test]
fn hello_starts_its_own_server_without_an_argument() {
    if TcpStream::connect("127.0.0.1:50051").is_ok() {
        report_skip("something listens at 127.0.0.1:50051");
        return;
    }
    let output = run("hello", &[], "");
    let stderr = text(&output.stderr);
    let sentence = "No server at http://127.0.0.1:50051; started one at http://127.0.0.1:";
    assert!(stderr.starts_with(sentence), "{stderr}");
    assert!(text(&output.stdout).contains("Hello, you!"));
}

/// As with `hello | head -1`: the first reply is read, and nothing reads the next.
#[tokio::test]
async fn hello_with_a_closed_stdout_ends_quietly() {
    let server = TestServer::start();
    let mut hello = process("hello", &[&url(&server)]);
    drop(hello.stdout.take());
    let mut errors = String::new();
    let mut stderr = hello.stderr.take().unwrap();
    with_timeout(stderr.read_to_string(&mut errors))
        .await
        .unwrap();
    assert_eq!(with_timeout(hello.wait()).await.unwrap().code(), Some(0));
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn help_prints_the_usage() {
    for name in CLIENTS {
        for flag in ["-h", "--help"] {
            let output = run(name, &[flag], "");
            let usage = text(&output.stdout);
            assert!(usage.starts_with("usage: cargo run --example "), "{usage}");
        }
    }
}

#[test]
fn piped_chat_prints_one_line_per_line() {
    let server = TestServer::start();
    let output = run("bidi_chat", &[&url(&server)], "Ada\n\nGrace");
    assert_eq!(
        text(&output.stdout),
        "Hello, Ada!\nHello, !\nHello, Grace!\n"
    );
    assert_eq!(text(&run("bidi_chat", &[&url(&server)], "").stdout), "");
}

/// Four megabytes, far more than all buffers between the ends hold.
#[test]
fn long_piped_chat_does_not_deadlock() {
    let server = TestServer::start();
    let names = (0..20_000).map(|number| format!("{number:0200}"));
    let input: String = names.clone().map(|name| name + "\n").collect();
    let replies: String = names.map(|name| format!("Hello, {name}!\n")).collect();
    assert!(text(&run("bidi_chat", &[&url(&server)], &input).stdout) == replies);
}

#[test]
fn failing_piped_chat_prints_one_sentence() {
    let server = TestServer::start();
    let input = format!("Ada\n{}\n", "x".repeat(5000));
    let mut chat = example("bidi_chat");
    let output = chat.arg(url(&server)).write_stdin(input).assert().code(1);
    let output = output.get_output();
    assert_eq!(text(&output.stdout), "Hello, Ada!\n");
    assert_eq!(
        text(&output.stderr),
        "Error: InvalidArgument: the name has 5000 bytes, the most is 4096.\n"
    );
}

#[test]
fn chat_with_unreadable_input_says_so() {
    let server = TestServer::start();
    let mut chat = example("bidi_chat");
    let output = chat
        .arg(url(&server))
        .write_stdin(b"\xff\n")
        .assert()
        .code(1);
    let stderr = text(&output.get_output().stderr);
    assert!(
        stderr.starts_with("Error: cannot read standard input: "),
        "{stderr}"
    );
}

/// The pipe stays open: neither end waits for the other to close it.
#[tokio::test]
async fn chat_over_open_pipes_answers_line_by_line() {
    let server = TestServer::start();
    assert_answers_line_by_line(chat(&url(&server))).await;
}

#[tokio::test]
async fn chat_with_a_closed_stdout_ends_quietly() {
    let server = TestServer::start();
    let mut chat = chat(&url(&server));
    drop(chat.stdout.take());
    let mut input = chat.stdin.take().unwrap();
    input.write_all(b"Ada\n").await.unwrap();
    assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn signal_cancels_a_piped_chat() {
    let server = TestServer::start();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut chat = chat(&url(&server));
        let mut input = chat.stdin.take().unwrap();
        let mut replies = BufReader::new(chat.stdout.take().unwrap()).lines();
        input.write_all(b"Ada\n").await.unwrap();
        assert!(with_timeout(replies.next_line()).await.unwrap().is_some());
        kill(signal, chat.id().unwrap());
        assert_eq!(with_timeout(chat.wait()).await.unwrap().code(), Some(code));
    }
}

fn chat(url: &str) -> Child {
    process("bidi_chat", &[url])
}

fn process(name: &str, arguments: &[&str]) -> Child {
    tokio::process::Command::new(examples_dir().join(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[test]
fn stream_file_resumes_both_calls() {
    let server = TestServer::start();
    let output = run("stream_file", &[&url(&server), "8"], "");
    let rows = lines(&output);
    assert_eq!(rows.len(), 3, "{rows:?}");
    for (row, name) in rows[1..].iter().zip(["upload", "download"]) {
        let words: Vec<_> = row.split_whitespace().collect();
        let [what, size, size_unit, time, time_unit, rate, rate_unit] = words[..] else {
            panic!("{row}");
        };
        assert_eq!((what, size), (name, "8"));
        assert_eq!([size_unit, time_unit, rate_unit], ["MiB", "s", "MiB/s"]);
        for number in [time, rate] {
            assert!(number.parse::<f64>().unwrap() > 0.0, "{row}");
        }
    }
    let stderr: Vec<_> = text(&output.stderr).lines().collect();
    let words = [
        "Making 8 MiB",
        "The server has 0 MiB of it",
        "The call is cut half-way",
        "The server has ",
        "Downloading it",
        "The checksums agree. The file stays on the server as stream_file-demo.bin.",
    ];
    assert_in_order(&stderr, &words);
    let stored = server.path("stream_file-demo.bin");
    assert_eq!(std::fs::metadata(stored).unwrap().len(), 8 << 20);
}

#[test]
fn stream_file_refuses_a_size_that_is_no_number() {
    let server = TestServer::start();
    for size in ["8MiB", "0", "-1", ""] {
        let mut command = example("stream_file");
        let output = command.args([&url(&server), size]).assert().code(1);
        assert_eq!(
            text(&output.get_output().stderr),
            "Error: the size is a number of MiB, such as 8.\n"
        );
    }
    assert!(!server.path("stream_file-demo.bin").exists());
}

#[test]
fn deadlines_end_on_either_side() {
    let server = TestServer::start();
    let output = run("deadlines", &[&url(&server)], "");
    let texts = [
        "Hello, Ada!",
        "s DeadlineExceeded: the deadline of the call has passed",
        "s Cancelled: Timeout expired",
        "are left for the server",
        "s DeadlineExceeded: the deadline of the call has passed",
    ];
    assert_in_order(&lines(&output), &texts);
}

#[test]
fn errors_have_code_reason_and_details() {
    let server = TestServer::start();
    let output = run("errors", &[&url(&server)], "");
    let texts = [
        "code     InvalidArgument: mend the request",
        "reason   BAD_REQUEST, of muxs",
        "field    value",
        "reason   NAME_TOO_LONG",
        "reason   NOT_FOUND",
        "reason   FILENAME_INVALID",
        "code     ResourceExhausted",
        "limit is max_calls",
        "retry    after 1s",
        "code     NotFound",
        "reason   NOT_FOUND",
    ];
    assert_in_order(&lines(&output), &texts.map(str::trim));
}

#[test]
fn minimal_server_answers_every_shape() {
    let output = run("minimal_server", &[], "");
    let greetings = lines(&output)
        .into_iter()
        .map(|line| line.split_once(' ').unwrap());
    let greetings: Vec<_> = greetings
        .map(|(method, reply)| (method, reply.trim()))
        .collect();
    assert_eq!(
        greetings,
        [
            ("SayHello", "Hello, unary!"),
            ("LotsOfReplies", "Hello, server stream 1!"),
            ("LotsOfReplies", "Hello, server stream 2!"),
            ("LotsOfReplies", "Hello, server stream 3!"),
            ("LotsOfGreetings", "Hello, client and stream!"),
            ("BidiHello", "Hello, both!"),
            ("BidiHello", "Hello, ways!"),
        ]
    );
}

#[test]
fn own_service_is_limited_and_drains() {
    let output = run("own_service", &[], "");
    let texts = [
        "hello",
        "one two three",
        "at most 64 are accepted",
        "more",
        "DeadlineExceeded",
        "drains",
    ];
    assert_in_order(&lines(&output), &texts);
}

#[test]
fn cancellation_drops_handler_and_stream() {
    let output = run("cancellation", &[], "");
    let dropped = lines(&output);
    let dropped = dropped
        .iter()
        .filter(|line| line.starts_with("server: dropped after "));
    assert_eq!(dropped.count(), 3, "{}", text(&output.stdout));
}

/// The server gets ahead by more than half of the window, and by less than the window and 1 MiB.
#[test]
fn flow_control_bounds_the_server_by_the_window() {
    let output = run("flow_control", &[], "");
    let lines = lines(&output);
    let rows = lines
        .iter()
        .filter(|line| line.ends_with("KiB") && !line.contains("Messages"));
    let rows: Vec<Vec<u64>> = rows
        .map(|row| {
            row.split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect()
        })
        .collect();
    assert_eq!(rows.len(), 4, "{lines:#?}");
    for row in rows {
        let [window, _, _, ahead] = row[..] else {
            panic!("{lines:#?}");
        };
        assert!((window / 2..window + 1024).contains(&ahead), "{lines:#?}");
    }
}

#[test]
fn metadata_travels_both_ways() {
    let output = run("metadata", &[], "");
    let texts = [
        "metadata of the response:",
        "Bonjour, Ada!",
        "metadata of the status:",
        "ResourceExhausted: no square is left for today",
    ];
    let lines = lines(&output);
    assert_in_order(&lines, &texts);
    for pair in [
        "content-language = \"fr\"",
        "flag-bin = Ok(b\"\\0\\xff\")",
        "x-request-id = \"example-1\"",
        "x-request-id = \"example-2\"",
        "quota-left = \"0\"",
    ] {
        assert!(lines.contains(&pair), "no {pair}: {lines:#?}");
    }
}

#[test]
fn retry_resumes_and_gives_up_on_invalid_requests() {
    let output = run("retry", &[], "");
    let texts = [
        "(progress: the budget starts anew)",
        "3 numbers, then Unavailable; next attempt in",
        "3 numbers, then Unavailable; next attempt in",
        "3 numbers, then ResourceExhausted; next attempt in 300ms (RetryInfo)",
        "(progress: the budget starts anew)",
        "6 numbers, then Unavailable; next attempt in",
        "6 numbers, then Unavailable; next attempt in",
        "all 10 numbers",
        "given up: InvalidArgument",
    ];
    assert_in_order(&lines(&output), &texts);
}

#[test]
fn graceful_stop_waits_for_short_calls_and_cuts_endless_ones() {
    let output = run("graceful_stop", &[], "");
    let texts = [
        "the signal",
        "the short call got 7 numbers, then OK",
        "a new client is refused",
        "the grace is over",
        "numbers, then Unavailable",
        "the server has ended",
    ];
    assert_in_order(&lines(&output), &texts);
}

/// Asserts that an example fails with one sentence, which ends so.
#[track_caller]
fn assert_fails(name: &str, url: &str, end: &str) {
    let mut command = example(name);
    let output = command.arg(url).write_stdin("Ada\n").assert().code(1);
    let stderr = text(&output.get_output().stderr);
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("Error: ") && last.ends_with(end),
        "{name} {url}: {stderr}"
    );
    assert_eq!(stderr.matches("Error: ").count(), 1, "{stderr}");
}

#[test]
fn dead_server_is_one_sentence() {
    for name in CLIENTS {
        let end = format!("no server answers: Connection refused (os error 111). {ADVICE}");
        assert_fails(name, "http://127.0.0.1:1", &end);
    }
}

#[test]
fn text_that_is_no_url_is_one_sentence() {
    for invalid in [
        "127.0.0.1:50051",
        "",
        "http://",
        "ftp://127.0.0.1:1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:1/greeter",
        "http://127.0.0.1:1?a",
    ] {
        let end = format!("`{invalid}` is not the URL of a server: write http://127.0.0.1:50051.");
        assert_fails("hello", invalid, &end);
    }
}

/// A listener that sends these bytes on each connection, and then reads what comes.
fn foreign_server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            thread::spawn(move || {
                let _ = connection.write_all(answer);
                let _ = connection.read_to_end(&mut Vec::new());
            });
        }
    });
    url
}

#[test]
fn foreign_server_is_one_sentence() {
    let http = foreign_server(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    let silent = foreign_server(b"");
    let end = |url| format!("Error: what listens at {url} does not speak gRPC: {ADVICE}");
    for name in CLIENTS {
        assert_fails(name, &http, &end(&http));
    }
    // The time that each call has for its first answer.
    assert_fails("hello", &silent, &end(&silent));
    assert_fails("stream_file", &silent, &end(&silent));
}

#[test]
fn tls_on_one_side_is_one_sentence() {
    let pki = Pki::new();
    let tls = pki.load(ClientAuth::Off);
    let encrypted = TestServer::start_with(|config| config.tls = Some(tls));
    let plain = TestServer::start();
    for name in ["hello", "stream_file"] {
        assert_fails(name, &url(&encrypted), ADVICE);
        assert_fails(name, &format!("https://{}", plain.address), ADVICE);
        let end =
            "SSL_CERT_FILE=muxs-dev-cert.pem trusts it, if the server runs with --tls-self-signed.";
        assert_fails(name, &format!("https://{}", encrypted.address), end);
    }
    let mut hello = example("hello");
    hello.env("SSL_CERT_FILE", pki.path("authority.pem"));
    hello.arg(format!("https://localhost:{}", encrypted.address.port()));
    hello.assert().success();
}

#[test]
fn required_token_is_one_sentence() {
    let server = server_with_key(rsa());
    for name in CLIENTS {
        let end =
            "requires an access token: `cargo run --bin muxs` can send one, this example cannot.";
        assert_fails(name, &url(&server), end);
    }
}

#[tokio::test]
async fn killed_server_is_one_sentence() {
    for (name, arguments, begun) in [
        ("bidi_chat", &[][..], "Hello, Ada!"),
        ("stream_file", &["64"], "The server has 0 MiB"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut server = Program::start(root.path()).await;
        let mut process = process(name, &[&[server.url.as_str()], arguments].concat());
        // Keeps the input open.
        let mut input = process.stdin.take().unwrap();
        input.write_all(b"Ada\n").await.unwrap();
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let mut errors = BufReader::new(stderr.unwrap());
        let mut line = String::new();
        if name == "bidi_chat" {
            let mut replies = BufReader::new(stdout.unwrap());
            with_timeout(replies.read_line(&mut line)).await.unwrap();
        } else {
            while !line.contains(begun) {
                assert!(with_timeout(errors.read_line(&mut line)).await.unwrap() > 0);
            }
        }
        assert!(line.contains(begun), "{line}");
        server.signal(Signal::KILL);
        server.wait_end().await;
        let mut rest = String::new();
        with_timeout(errors.read_to_string(&mut rest))
            .await
            .unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(1));
        let end = "the server is gone in the middle of the call: start it and run this again.\n";
        assert!(rest.ends_with(end), "{rest}");
    }
}
