//! The command line's flags for access tokens.

use std::fs;

use muxs::pb::FileInfo;
use tonic::Code;

use crate::support::{
    program::muxs,
    scripted_server::{ScriptedServer, failure},
};

fn refusal() -> Result<FileInfo, tonic::Status> {
    Err(failure(Code::Unauthenticated, "UNAUTHENTICATED"))
}

/// Runs `muxs stat` against a server, on another thread than the server's.
async fn stat(server: &str, flags: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = muxs(server);
    command.args(flags).args(["stat", "name"]);
    command.envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn command_sends_a_token_from_file_environment_or_command() {
    let server = ScriptedServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "file\n").unwrap();
    let file = file.to_str().unwrap();
    let in_environment = [("MUXS_TOKEN", "environment")];
    type Run<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);
    let runs: [Run; 5] = [
        (&["--token-file", file], &[]),
        (&[], &in_environment),
        (&["--token-command", "echo command"], &[]),
        (&["--token-file", file], &in_environment),
        (&[], &[("MUXS_TOKEN", "")]),
    ];
    for (flags, environment) in runs {
        server.script().stats.push_back(Ok(FileInfo::default()));
        let (code, stderr) = stat(&server.url(), flags, environment).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    let shown = [
        "Bearer file",
        "Bearer environment",
        "Bearer command",
        "Bearer file",
        "",
    ];
    assert_eq!(server.script().authorizations, shown);
}

#[tokio::test]
async fn command_refused_without_a_token_explains_the_flags() {
    let server = ScriptedServer::start().await;
    server.script().stats.push_back(refusal());
    let (code, stderr) = stat(&server.url(), &[], &[]).await;
    assert_eq!(code, Some(80));
    assert_eq!(
        stderr,
        "error: the server requires an access token: --token-file, MUXS_TOKEN or --token-command \
         give one, --issuer with --client-id requests one\n"
    );
    // With a token, the advice would be of no use.
    server.script().stats.push_back(refusal());
    let (code, stderr) = stat(&server.url(), &[], &[("MUXS_TOKEN", "the-token")]).await;
    assert_eq!(code, Some(80));
    assert_eq!(
        stderr,
        "error: the server does not accept the access token: it may have expired, or be for \
         another server\n"
    );
}

#[tokio::test]
async fn command_does_not_send_a_token_in_plain_text() {
    let token = [("MUXS_TOKEN", "the-token")];
    let (code, stderr) = stat("http://192.0.2.1:50051", &[], &token).await;
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "error: http://192.0.2.1:50051/ is not encrypted, and others could read the token on its \
         way there: tokens are sent to https://, unix: and loopback addresses only\n"
    );
}

#[tokio::test]
async fn command_with_a_failing_token_source_says_why() {
    let server = ScriptedServer::start().await;
    let cases = [
        (
            ["--token-command", "echo 'log in first' >&2; exit 4"],
            "error: the command for tokens ended with exit status: 4: log in first\n",
        ),
        (
            ["--token-file", "/nonexistent"],
            "error: cannot read the token in /nonexistent: No such file or directory\n",
        ),
    ];
    for (flags, expected) in cases {
        let (code, stderr) = stat(&server.url(), &flags, &[]).await;
        assert_eq!((code, stderr.as_str()), (Some(1), expected));
        // The chat has a channel of its own.
        let mut chat = muxs(&server.url());
        chat.args(flags).arg("chat").write_stdin("");
        let output = tokio::task::spawn_blocking(move || chat.output().unwrap());
        let stderr = String::from_utf8(output.await.unwrap().stderr).unwrap();
        assert_eq!(stderr, expected);
    }
    assert!(server.script().authorizations.is_empty());
}

#[tokio::test]
async fn token_without_a_scope_names_the_scope() {
    let server = ScriptedServer::start().await;
    let denied = || {
        let mut status = failure(Code::PermissionDenied, "INSUFFICIENT_SCOPE");
        let challenge = "Bearer error=\"insufficient_scope\", scope=\"files.read\"";
        let metadata = status.metadata_mut();
        metadata.insert("www-authenticate", challenge.parse().unwrap());
        Err(status)
    };
    server.script().stats.push_back(denied());
    let (code, stderr) = stat(&server.url(), &[], &[("MUXS_TOKEN", "the-token")]).await;
    assert_eq!(code, Some(71));
    assert_eq!(
        stderr,
        "error: the access token lacks the scope files.read: get a token that has it\n"
    );
}

#[test]
fn command_rejects_several_token_sources_and_secret_arguments() {
    let conflicts: [&[&str]; 9] = [
        &["--token-file", "x", "--token-command", "y"],
        &[
            "--token-file",
            "x",
            "--issuer",
            "https://y",
            "--client-id",
            "z",
        ],
        &[
            "--token-command",
            "x",
            "--issuer",
            "https://y",
            "--client-id",
            "z",
        ],
        &["--client-id", "x"],
        &["--issuer", "https://x"],
        &["--scope", "x"],
        &["--client-secret-file", "x"],
        &["--token", "x"],
        &["--client-secret", "x"],
    ];
    for flags in conflicts {
        let mut command = muxs("http://127.0.0.1:1");
        let output = command.args(flags).arg("chat").assert().code(2);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.starts_with("error: "), "{flags:?}: {stderr}");
    }
}

#[tokio::test]
async fn client_secret_comes_from_file_or_environment() {
    let server = ScriptedServer::start().await;
    let client = ["--issuer", "http://127.0.0.1:1", "--client-id", "id"];
    let (code, stderr) = stat(&server.url(), &client, &[]).await;
    assert_eq!(
        (code, stderr.as_str()),
        (
            Some(1),
            "error: --client-id needs a secret: in --client-secret-file or in MUXS_CLIENT_SECRET\n"
        )
    );
    let missing = [&client[..], &["--client-secret-file", "/nonexistent"]].concat();
    let (code, stderr) = stat(&server.url(), &missing, &[]).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: cannot read the secret in /nonexistent: "),
        "{stderr}"
    );

    let mut chat = muxs(&server.url());
    chat.args(client).arg("chat").write_stdin("");
    chat.env("MUXS_CLIENT_SECRET", "the-secret");
    let output = tokio::task::spawn_blocking(move || chat.output().unwrap());
    let output = output.await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "error: no token from the issuer: ";
    assert!(stderr.starts_with(expected), "{stderr}");
    assert!(stderr.contains("http://127.0.0.1:1/"), "{stderr}");
    assert!(!stderr.contains("the-secret"), "{stderr}");
}
