//! The table of path escapes: filenames that must be refused without effect.

use std::{fs, os::unix::fs::symlink};

use muxs::pb::{Failure, StatRequest};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{TestServer, assert_failure, file, tree};

/// Asserts that Read, Write and Stat refuse each name with this reason, and that nothing on the disk has
/// changed.
async fn assert_refused(server: &TestServer, names: &[&str], code: Code, reason: &str) {
    let before = tree(server.root());
    let mut files = server.files().await;
    for &name in names {
        let request = file(name, "text");
        let content = files.read(request.clone()).await.unwrap().into_inner();
        assert_eq!(content.text, "Error: read failed");
        let status = files.write(request).await.unwrap().into_inner();
        assert_eq!(status.code, 1);
        for failure in [content.failure, status.failure] {
            let Failure {
                code: actual,
                reason: why,
                ..
            } = failure.expect("a failure");
            assert_eq!((actual, why.as_str()), (code.into(), reason), "{name:?}");
        }
        let request = StatRequest {
            filename: name.to_owned(),
        };
        let status = assert_failure(files.stat(request).await, code, reason);
        let field = status
            .get_details_bad_request()
            .map(|bad| bad.field_violations[0].field.clone());
        let expected = (reason == "FILENAME_INVALID").then(|| "filename".to_owned());
        assert_eq!(field, expected, "{name:?}");
    }
    assert_eq!(tree(server.root()), before);
}

#[tokio::test]
async fn invalid_filename_is_refused() {
    let long_component = "x".repeat(256);
    let long = format!("{}/x", vec!["x".repeat(255); 16].join("/"));
    let longer = "x/".repeat(20_000) + "x";
    let deep = vec!["x"; 65].join("/");
    let names = [
        "",
        "/",
        "/etc/passwd",
        "//a",
        "a//b",
        "a/",
        ".",
        "..",
        "./a",
        "a/.",
        "../a",
        "a/..",
        "a/../../b",
        "a/../b",
        "a\0b",
        "\0",
        "a\nb",
        "a\u{1b}[2J",
        "a\u{7f}",
        "a\u{85}b",
        "a\\b",
        "..\\a",
        ".muxs",
        ".muxs/lock",
        ".muxs/writes/0",
        ".MUXS/lock",
        ".Muxs",
        &long_component,
        &long,
        &longer,
        &deep,
    ];
    let server = TestServer::start();
    assert_refused(&server, &names, Code::InvalidArgument, "FILENAME_INVALID").await;
}

#[tokio::test]
async fn link_does_not_lead_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let beside = outside.path().file_name().unwrap().to_str().unwrap();

    let server = TestServer::start();
    fs::create_dir(server.path("folder")).unwrap();
    fs::write(server.path("inside"), "inside").unwrap();
    let link = |to: &str, name: &str| symlink(to, server.path(name)).unwrap();
    link("/etc/passwd", "absolute");
    link(outside.path().join("secret").to_str().unwrap(), "secret");
    link(outside.path().to_str().unwrap(), "elsewhere");
    link("..", "up");
    link("../..", "folder/up");
    link(&format!("../{beside}/secret"), "relative");
    link("/dev/null", "device");
    link("/nowhere/at/all", "dangling-outside");
    link("up", "link-to-up");
    // The target is inside the root, but its path leads through the outside.
    link(server.path("inside").to_str().unwrap(), "absolute-inside");

    let up = format!("up/{beside}/secret");
    let folder_up = format!("folder/up/{beside}/secret");
    let link_to_up = format!("link-to-up/{beside}/new");
    let names = [
        "absolute",
        "secret",
        "elsewhere/secret",
        "elsewhere/new",
        "elsewhere/new/folder/file",
        &up,
        &folder_up,
        &link_to_up,
        "up/new",
        "relative",
        "device",
        "dangling-outside",
        "absolute-inside",
    ];
    assert_refused(&server, &names, Code::PermissionDenied, "OUTSIDE_ROOT").await;
    assert_eq!(
        tree(outside.path()).len(),
        1,
        "something was written outside"
    );
    assert_eq!(
        fs::read_to_string(outside.path().join("secret")).unwrap(),
        "secret"
    );
}

#[tokio::test]
async fn link_does_not_lead_into_the_server_directory() {
    let server = TestServer::start();
    fs::create_dir(server.path("folder")).unwrap();
    symlink(".muxs", server.path("own")).unwrap();
    symlink("../.muxs/lock", server.path("folder/lock")).unwrap();
    symlink("own/writes", server.path("writes")).unwrap();
    symlink(".muxs/writes/new", server.path("dangling")).unwrap();
    let names = [
        "own/lock",
        "own/new",
        "own/writes/0",
        "own/new/folder/file",
        "folder/lock",
        "writes/0",
    ];
    assert_refused(&server, &names, Code::InvalidArgument, "FILENAME_INVALID").await;

    // A dangling link is replaced itself.
    let request = file("dangling", "text");
    let status = server
        .files()
        .await
        .write(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.code, 0);
    assert!(!server.path(".muxs/writes/new").exists());
    assert_eq!(fs::read_to_string(server.path("dangling")).unwrap(), "text");
}
