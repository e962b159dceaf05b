//! The programs: flags, variables, output, signals and exit codes.

mod bad_servers;
mod chat;
mod command;
mod command_credentials;
mod deployment;
mod examples;
mod systemd;
mod unix_socket;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
};

use assert_cmd::Command;
use muxs::pb::{HelloRequest, read_stream_response::Event};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};

use tonic::Code;

use crate::support::{
    Program, TEST_TIMEOUT, assert_failure, connect, file, kill, metadata,
    program::{assert_start_fails, server_command},
    report_skip,
    upload_stream::{UploadStream, open, whole},
    with_timeout,
};

#[test]
fn start_fails_when_port_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let root = tempfile::tempdir().unwrap();
    for flag in ["--listen", "--admin-listen"] {
        assert_start_fails(
            server_command()
                .args(["--listen=127.0.0.1:0", flag, &address, "--root"])
                .arg(root.path()),
            &format!(
                "cannot listen on {address}: Address already in use (os error 98); stop the program \
                 that listens there, or choose another address with {flag}"
            ),
        );
    }
}

/// What is wrong with a file is reported first, even if a port is in use.
#[test]
fn port_in_use_hides_no_other_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let issuer = [
        "--auth-issuer",
        "https://login.example.com",
        "--auth-audience",
        "name",
    ];
    let cases: [(&[&str], String); 3] = [
        (
            &["--root", path],
            format!("the root {path} is not a folder"),
        ),
        (
            &["--tls-cert", path, "--tls-key", path],
            format!("there is no certificate in {path}"),
        ),
        (
            &[&issuer[..], &["--auth-jwks", path]].concat(),
            format!("cannot use the keys in {path}: it is not a JWK set (RFC 7517)"),
        ),
    ];
    for (flags, sentence) in cases {
        let mut command = server_command();
        command.args(["--listen", &address]).args(flags);
        assert_start_fails(&mut command, &sentence);
    }
}

#[tokio::test]
async fn port_alone_is_one_of_the_loopback_interface() {
    let root = tempfile::tempdir().unwrap();
    for port in ["0", ":0"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["--listen", port, "--root"]).arg(root.path());
        let program = Program::start_command(command).await;
        assert_eq!(program.address.ip(), Ipv4Addr::LOCALHOST);
        stop(program, Signal::TERM).await;
    }
}

#[test]
fn wrong_flag_is_explained_with_exit_code_2() {
    const ADDRESS: &str =
        "<ADDR>': it must be HOST:PORT, with a port from 0 to 65535, or unix:PATH";
    const TOKENS: [&str; 4] = [
        "--auth-issuer",
        "https://login.example.com",
        "--auth-audience",
        "name",
    ];
    let algorithms = |names| [&TOKENS[..], &["--auth-algorithms", names]].concat();
    let cases: [(&[&str], &str); 10] = [
        (&["--listen", "nowhere"], ADDRESS),
        (&["--listen", "localhost:70000"], ADDRESS),
        (&["--listen", "127.0.0.1"], ADDRESS),
        (&["--listen", "unix:"], ": the path after unix: is empty"),
        (
            &["--listen=50051", "--admin-listen=127.0.0.1:50051"],
            "error: --listen and --admin-listen name the same address: choose another one for \
             --admin-listen",
        ),
        (
            &["--reflection", "authenticated"],
            "error: --reflection authenticated needs --auth-issuer",
        ),
        (
            &["--auth-scope-read", "a b"],
            "\"a b\" is not a scope name, ",
        ),
        (&["--auth-scope-write", ""], "\"\" is not a scope name, "),
        (
            &algorithms("RS256,HS256"),
            "error: \"HS256\" is not supported for tokens; ",
        ),
        (&algorithms(""), "error: \"\" is not supported for tokens; "),
    ];
    for (flags, sentence) in cases {
        assert_wrong(server_command().args(flags), sentence);
    }
}

#[test]
fn wrong_variable_is_explained_with_exit_code_2() {
    for (name, value, sentence) in [
        (
            "MUXS_LISTEN",
            "",
            "error: MUXS_LISTEN is empty: give it a value, or remove it",
        ),
        (
            "MUXS_LOG_FORMAT",
            "",
            "error: MUXS_LOG_FORMAT is empty: give it a value, or remove it",
        ),
        (
            "MUXS_READ_ONLY",
            "maybe",
            "error: invalid value 'maybe' for '--read-only': it must be true or false",
        ),
    ] {
        assert_wrong(server_command().env(name, value), sentence);
    }
}

#[track_caller]
fn assert_wrong(command: &mut Command, sentence: &str) {
    let output = command.assert().code(2).stdout("").get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let first = stderr.lines().next().unwrap();
    assert!(first.contains(sentence), "{stderr}");
}

#[test]
fn start_fails_on_an_unusable_socket_path() {
    let folder = tempfile::tempdir().unwrap();
    let (file, missing) = (folder.path().join("file"), folder.path().join("missing"));
    fs::write(&file, "content").unwrap();
    for (path, why) in [
        (
            file,
            "the file exists and is not a socket; choose another path with --listen".to_owned(),
        ),
        (
            missing.join("socket"),
            format!("the folder {} does not exist; create it", missing.display()),
        ),
    ] {
        let address = format!("unix:{}", path.display());
        assert_start_fails(
            server_command()
                .args(["--listen", &address, "--root"])
                .arg(folder.path().join("root")),
            &format!("cannot listen on {address}: {why}"),
        );
    }
}

#[tokio::test]
async fn log_filter_without_a_level_is_ignored_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(root.path())
        .env("RUST_LOG", "warning");
    let log = stop(Program::start_command(command).await, Signal::TERM).await;
    let sentence = "RUST_LOG is ignored: `warning` is not a level";
    assert!(log.contains("WARN") && log.contains(sentence), "{log}");
    assert!(log.contains("INFO server: stopped"), "{log}");
}

#[tokio::test]
async fn missing_tokens_are_a_warning_on_public_addresses() {
    for (address, level) in [("127.0.0.1:0", "INFO"), ("0.0.0.0:0", "WARN")] {
        let root = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        command
            .args(["--listen", address, "--root"])
            .arg(root.path());
        let log = stop(Program::start_command(command).await, Signal::TERM).await;
        let line = format!("{level} server: no access token is required");
        assert!(log.contains(&line), "{log}");
    }
}

#[test]
fn start_fails_when_root_is_a_file() {
    let root = tempfile::NamedTempFile::new().unwrap();
    let sentence = format!("the root {} is not a folder", root.path().display());
    for read_only in ["false", "true"] {
        assert_start_fails(
            server_command()
                .env("MUXS_READ_ONLY", read_only)
                .args(["--listen", "127.0.0.1:0", "--root"])
                .arg(root.path()),
            &sentence,
        );
    }
}

#[test]
fn start_fails_when_root_cannot_be_created() {
    assert_start_fails(
        server_command().args(["--listen", "127.0.0.1:0", "--root", "/proc/x"]),
        "the root /proc/x does not exist and cannot be created: No such file or directory (os error 2)",
    );
}

#[tokio::test]
async fn start_fails_when_root_is_locked() {
    let root = tempfile::tempdir().unwrap();
    let _first = Program::start(root.path()).await;
    assert_start_fails(
        server_command()
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(root.path()),
        &format!(
            "the root {} is in use by another server: stop it, start this one read-only, or use \
             another root",
            root.path().display()
        ),
    );
}

#[test]
fn read_only_server_does_not_create_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("missing");
    assert_start_fails(
        server_command()
            .args(["--listen", "127.0.0.1:0", "--read-only", "--root"])
            .arg(&root),
        &format!(
            "the root {} does not exist, and a read-only server does not create it",
            root.display()
        ),
    );
    assert!(!root.exists());
}

#[test]
fn start_fails_when_root_is_not_writable() {
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    for path in [folder.path(), &root] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(&root);
    // Permissions do not apply to the superuser.
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_start_fails(
        Command::from_std(command).timeout(TEST_TIMEOUT),
        &format!(
            "the root {} is not writable: Permission denied (os error 13)",
            root.display()
        ),
    );
}

#[test]
fn wrong_usage_is_reported() {
    for arguments in [&["--log-format", "xml"][..], &["--nothing"], &["extra"]] {
        server_command()
            .args(arguments)
            .assert()
            .failure()
            .code(2)
            .stdout("");
    }
}

#[test]
fn help_lists_every_flag_variable_and_example() {
    let output = server_command()
        .arg("--help")
        .assert()
        .success()
        .get_output()
        .clone();
    let help = String::from_utf8(output.stdout).unwrap();
    for word in [
        "--listen",
        "MUXS_LISTEN",
        "127.0.0.1:50051",
        "--root",
        "MUXS_ROOT",
        "./muxs-data",
        "--read-only",
        "MUXS_READ_ONLY",
        "--log-format",
        "MUXS_LOG_FORMAT",
        "Examples:",
    ] {
        assert!(help.contains(word), "no {word} in {help}");
    }
}

/// Each line has the actual port; nothing else is printed until the end.
#[tokio::test]
async fn standard_output_has_one_line_for_each_address() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_server"))
        .args(["--listen", "127.0.0.1:0", "--listen", "localhost:0"])
        .args(["--root", "./data"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = with_timeout(lines.next_line()).await.unwrap().unwrap();
        let address = line
            .strip_prefix("muxs listening on http://")
            .and_then(|line| line.strip_suffix(", serving ./data"))
            .unwrap_or_else(|| panic!("{line:?}"));
        let address: SocketAddr = address.parse().unwrap();
        assert_ne!(address.port(), 0);
        greet(address).await;
    }
    assert!(folder.path().join("data").is_dir());
    kill(Signal::TERM, child.id().unwrap());
    assert_eq!(with_timeout(lines.next_line()).await.unwrap(), None);
    assert!(with_timeout(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn every_flag_has_a_variable() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("from-variable");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.txt"), "text").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .env("MUXS_LISTEN", "127.0.0.1:0,127.0.0.1:0")
        .env("MUXS_ROOT", &root)
        .env("MUXS_READ_ONLY", "1")
        .env("MUXS_LOG_FORMAT", "json")
        .env("RUST_LOG", "debug");
    let program = Program::start_command(command).await;
    let request = file("a.txt", "new");
    let mut files = program.files().await;
    let content = files.read(request.clone()).await.unwrap().into_inner();
    assert_eq!(content.text, "text");
    let status = files.write(request).await.unwrap().into_inner();
    assert_eq!(status.failure.unwrap().reason, "READ_ONLY");
    let log = stop(program, Signal::TERM).await;
    assert!(log.contains("disconnected"), "{log}");
    assert!(
        log.lines()
            .all(|line| line.starts_with('{') && line.ends_with('}')),
        "{log}"
    );
}

#[tokio::test]
async fn sigint_and_sigterm_exit_with_success() {
    for signal in [Signal::INT, Signal::TERM] {
        let root = tempfile::tempdir().unwrap();
        let program = Program::start(root.path()).await;
        greet(program.address).await;
        stop(program, signal).await;
    }
}

#[tokio::test]
async fn second_signal_exits_at_once() {
    let root = tempfile::tempdir().unwrap();
    let mut program = Program::start(root.path()).await;
    let (_requests, outgoing) = tokio::sync::mpsc::channel::<HelloRequest>(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut greeter = program.greeter().await;
    let mut call = greeter.bidi_hello(requests).await.unwrap().into_inner();
    program.signal(Signal::TERM);
    // The closed port shows that the first signal has arrived.
    while std::net::TcpStream::connect(program.address).is_ok() {
        tokio::task::yield_now().await;
    }
    program.signal(Signal::TERM);
    assert!(call.message().await.is_err());
    assert_eq!(program.wait_end().await.code(), Some(1));
}

async fn greet(address: SocketAddr) {
    let mut greeter = muxs::pb::greeter_client::GreeterClient::new(connect(address).await);
    let reply = greeter.say_hello(HelloRequest::default()).await.unwrap();
    assert_eq!(reply.into_inner().message, "Hello, !");
}

/// Stops the program with a signal, and returns its log.
async fn stop(mut program: Program, signal: Signal) -> String {
    program.signal(signal);
    let status = program.wait_end().await;
    assert!(status.success(), "{status} after {signal:?}");
    program.log()
}

#[tokio::test]
async fn flags_for_large_files_take_effect() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.bin"), vec![0; 3000]).unwrap();
    let flags = [
        "--max-upload-bytes=1KiB",
        "--chunk-bytes=2kB",
        "--checkpoint-bytes=1B",
        "--upload-ttl=100000y",
    ];
    let server = Program::start_with(root.path(), &flags).await;
    let mut files = server.files().await;

    let too_large = open("b.bin", "id", &[0; 1025]);
    let mut upload = UploadStream::open(&mut files, too_large).await;
    let failure = upload.wait_end().await;
    let failure = assert_failure(failure, Code::FailedPrecondition, "TOO_LARGE");
    assert_eq!(metadata(&failure, "limit"), "1024");

    let mut upload = UploadStream::open(&mut files, open("b.bin", "id", b"hello")).await;
    // The expiry is in the far future.
    let expires_at = upload.progress().await.expires_at.unwrap();
    assert!(expires_at.seconds > 4_000_000_000);
    upload.chunk(0, b"hel").await;
    upload.wait_persisted(3).await;

    let events = files.read_stream(whole("a.bin")).await.unwrap();
    let mut events = events.into_inner();
    let mut sizes = Vec::new();
    while let Some(event) = with_timeout(events.message()).await.unwrap() {
        if let Some(Event::Chunk(chunk)) = event.event {
            sizes.push(chunk.data.len());
        }
    }
    assert_eq!(sizes, [2000, 1000]);
}

/// Zero is refused as well: a limit of 0 would stop the server from working, and look like no limit.
#[test]
fn invalid_number_is_rejected_with_a_sentence() {
    const SIZE: &str = "it must be a number of bytes, or one with a unit such as 256KiB or 64MiB";
    const DURATION: &str = "it must be a number with a unit, such as 500ms, 30s, 5m or 24h";
    let cases = [
        ("--workers", "0", "it must be at least 1"),
        ("--max-calls", "0", "it must be at least 1"),
        ("--max-connections", "0", "it must be at least 1"),
        ("--max-calls", "-1", "it must be a whole number, at least 1"),
        (
            "--max-calls",
            "many",
            "it must be a whole number, at least 1",
        ),
        ("--max-streams", "4294967296", "it is too large"),
        ("--checkpoint-bytes", "0", "it must be at least 1 byte"),
        ("--checkpoint-bytes", "-1", SIZE),
        ("--chunk-bytes", "banana", SIZE),
        ("--chunk-bytes", "0", "it must be at least 1 byte"),
        ("--chunk-bytes", "2MiB", "it must be at most 1MiB"),
        ("--max-upload-bytes", "many", SIZE),
        (
            "--max-upload-bytes",
            "0",
            "it would refuse every upload; leave the flag out for no limit",
        ),
        ("--idle-timeout", "0s", "it must be longer than 0"),
        ("--idle-timeout", "banana", DURATION),
        ("--upload-ttl", "1", DURATION),
        ("--shutdown-grace", "-3s", "it must not be negative"),
    ];
    for (flag, value, sentence) in cases {
        let output = server_command().args([flag, value]).assert().code(2);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        let (first, name) = (stderr.lines().next().unwrap(), &flag[2..]);
        assert!(
            first.starts_with(&format!("error: invalid value '{value}' for '--{name} <")),
            "{stderr}"
        );
        assert!(first.ends_with(&format!(">': {sentence}")), "{stderr}");
    }
}

#[test]
fn trace_flag_of_a_server_without_traces_is_explained() {
    if cfg!(feature = "otel") {
        report_skip("this server is built with traces");
        return;
    }
    let flag = ["--otlp-endpoint", "http://127.0.0.1:4317"];
    let output = server_command().args(flag).assert().code(2);
    let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    let sentence = "this server is built without traces; build it with `--features otel`";
    assert!(stderr.contains(sentence), "{stderr}");
}

#[tokio::test]
async fn unknown_variable_is_logged_with_the_closest_one() {
    let root = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(root.path())
        .env("MUXS_MAX_CALL", "3")
        .env("MUXS_TOKEN", "the client's");
    let program = Program::start_command(command).await;
    let log = stop(program, Signal::TERM).await;
    let sentence = "the server has no variable MUXS_MAX_CALL; the closest one is MUXS_MAX_CALLS";
    assert!(log.contains("WARN") && log.contains(sentence), "{log}");
    assert!(!log.contains("MUXS_TOKEN"), "{log}");
}
