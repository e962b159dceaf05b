//! The methods and the files that a token gives access to.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use muxs::{
    app::ScopeNames,
    pb::{
        self, AbortUploadRequest, Failure, StatRequest,
        file_controller_client::FileControllerClient,
    },
    server::Reflection,
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    TestServer, assert_failure,
    auth::{
        ALL_SCOPES, EMPTY, HeaderClient, INVALID_TOKEN, KeyFile, bearer_value, challenge, code,
        reason, require_tokens, server_with_key, valid_token, with_token,
    },
    file,
    signing::rsa,
    tree,
    upload_stream::{UploadStream, open, whole},
    with_timeout,
};

const SCOPES: [&str; 3] = ["greeter", "files.read", "files.write"];

/// The claim with the folder that a token is restricted to.
const FOLDER_CLAIM: &str = "folder";

/// The requirement of a method.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Requirement {
    Nothing,
    Token,
    Scope(&'static str),
}

/// The table of requirements. A method that is missing here fails the test.
fn requirement(path: &str, reflection: Reflection) -> Requirement {
    use Requirement::{Nothing, Scope, Token};
    match path {
        "/muxs.Greeter/SayHello"
        | "/muxs.Greeter/Square"
        | "/muxs.Greeter/LotsOfReplies"
        | "/muxs.Greeter/LotsOfGreetings"
        | "/muxs.Greeter/BidiHello"
        | "/helloworld.Greeter/SayHello"
        | "/helloworld.Greeter/Square" => Scope("greeter"),
        "/muxs.FileController/Read"
        | "/muxs.FileController/ReadStream"
        | "/muxs.FileController/Stat" => Scope("files.read"),
        "/muxs.FileController/Write"
        | "/muxs.FileController/WriteStream"
        | "/muxs.FileController/AbortUpload" => Scope("files.write"),
        "/grpc.health.v1.Health/Check"
        | "/grpc.health.v1.Health/List"
        | "/grpc.health.v1.Health/Watch" => Nothing,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => match reflection {
            Reflection::Public => Nothing,
            Reflection::Authenticated | Reflection::Off => Token,
        },
        _ => panic!("the table of requirements lacks {path}"),
    }
}

/// Returns the paths of all methods.
fn methods() -> Vec<String> {
    let sets = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = Vec::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                let of_service = service.method.iter().map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                });
                paths.extend(of_service);
            }
        }
    }
    paths
}

fn with_scope(scope: &str) -> String {
    valid_token()
        .claim("scope", &format!("{scope:?}"))
        .sign(rsa())
}

/// Calls all methods with tokens for each subset of scopes, and compares with the table.
async fn assert_matrix(reflection: Reflection, names: [&str; 3]) {
    let key = KeyFile::new(&[rsa().jwk()]);
    let server = TestServer::start_with(|config| {
        require_tokens(key.settings())(config);
        config.scopes = ScopeNames {
            greeter: names[0].parse().unwrap(),
            read: names[1].parse().unwrap(),
            write: names[2].parse().unwrap(),
        };
        config.reflection = reflection;
    });
    let mut caller = HeaderClient::connect(&server).await;
    let before = tree(server.root());
    for path in methods() {
        let wanted = requirement(&path, reflection);
        let missing = caller.call(&path, &[], EMPTY).await;
        match wanted {
            Requirement::Nothing => assert_in(&missing, &path),
            _ => assert_unauthenticated(&missing, &path),
        }
        for subset in 0..8 {
            let given = |scope: usize| subset & (1 << scope) != 0;
            let scope: Vec<_> = (0..3).filter(|s| given(*s)).map(|s| names[s]).collect();
            let token = with_scope(&scope.join(" "));
            let answered = caller.call(&path, &[bearer_value(&token)], EMPTY).await;
            match wanted {
                Requirement::Scope(scope) => {
                    let number = SCOPES.iter().position(|known| *known == scope).unwrap();
                    match given(number) {
                        true => assert_in(&answered, &path),
                        false => assert_insufficient(&answered, names[number], &path),
                    }
                }
                Requirement::Token if reflection == Reflection::Off => {
                    assert_eq!(code(&answered), Code::Unimplemented, "{path}");
                }
                _ => assert_in(&answered, &path),
            }
        }
    }
    assert_eq!(tree(server.root()), before);
}

#[track_caller]
fn assert_in(headers: &http::HeaderMap, path: &str) {
    let refused = [
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::Unimplemented,
        Code::Unavailable,
    ];
    assert!(!refused.contains(&code(headers)), "{path}: {headers:?}");
    assert!(headers.get("www-authenticate").is_none(), "{path}");
}

#[track_caller]
fn assert_unauthenticated(headers: &http::HeaderMap, path: &str) {
    assert_eq!(code(headers), Code::Unauthenticated, "{path}");
    assert_eq!(reason(headers), "UNAUTHENTICATED");
    assert_eq!(challenge(headers), INVALID_TOKEN);
}

#[track_caller]
fn assert_insufficient(headers: &http::HeaderMap, scope: &str, path: &str) {
    assert_eq!(code(headers), Code::PermissionDenied, "{path}");
    assert_eq!(reason(headers), "INSUFFICIENT_SCOPE");
    let wanted = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
    assert_eq!(challenge(headers), wanted);
}

#[tokio::test]
async fn each_method_requires_its_scope() {
    for reflection in [
        Reflection::Public,
        Reflection::Authenticated,
        Reflection::Off,
    ] {
        assert_matrix(reflection, SCOPES).await;
    }
}

#[tokio::test]
async fn configured_scope_names_are_required() {
    let names = ["https://scopes.example/greet", "read:files", "a,b!#[]~"];
    assert_matrix(Reflection::Public, names).await;
}

#[tokio::test]
async fn scope_matches_whole_words_only() {
    let server = server_with_key(rsa());
    let mut caller = HeaderClient::connect(&server).await;
    for scope in [
        "",
        " ",
        "Greeter",
        "greeters",
        "agreeter",
        "greeter,files.read",
        "greeter\\tfiles.read",
        "greeter.x",
        "files.read files.write",
        "*",
    ] {
        let token = valid_token()
            .claim("scope", &format!("\"{scope}\""))
            .sign(rsa());
        assert_eq!(
            caller.greeting_code_with(&token).await,
            Code::PermissionDenied,
            "{scope}"
        );
    }
    let none = valid_token().without_claim("scope").sign(rsa());
    assert_eq!(
        caller.greeting_code_with(&none).await,
        Code::PermissionDenied
    );
    for scope in ["greeter", "  greeter ", "x greeter y"] {
        assert_eq!(
            caller.greeting_code_with(&with_scope(scope)).await,
            Code::Ok,
            "{scope}"
        );
    }
}

/// Spellings of a path that bypass the table reach no handler.
#[tokio::test]
async fn unknown_method_requires_a_token_then_is_unimplemented() {
    let server = server_with_key(rsa());
    let mut caller = HeaderClient::connect(&server).await;
    let before = tree(server.root());
    for path in [
        "/",
        "/muxs.Greeter",
        "/muxs.Greeter/",
        "/muxs.Greeter/Nothing",
        "/muxs.Greeter/sayhello",
        "/muxs.Greeter/SayHello/",
        "/muxs.Greeter//SayHello",
        "//muxs.Greeter/SayHello",
        "/./muxs.Greeter/SayHello",
        "/x/../muxs.Greeter/SayHello",
        "/muxs.Greeter/Say%48ello",
        "/muxs%2eGreeter/SayHello",
        "/muxs.FileController/Write%20",
        "/muxs.FileController/write",
        "/muxs.FileController/WriteStream/",
        "/muxs.FileController/Read/../Write",
        "/grpc.health.v1.Health/../muxs.FileController/Write",
        "/grpc.health.v1.Health/Nothing",
        "/grpc.health.v1.Healthy/Check",
        "/grpc.reflection.v1.ServerReflection/Nothing",
        "/nobody.Knows/This",
    ] {
        assert_unauthenticated(&caller.call(path, &[], EMPTY).await, path);
        for scope in ["", ALL_SCOPES] {
            let answered = caller
                .call(path, &[bearer_value(&with_scope(scope))], EMPTY)
                .await;
            assert_eq!(code(&answered), Code::Unimplemented, "{path}");
        }
    }
    // A path with a query is the same method with the same requirement.
    let path = "/muxs.Greeter/SayHello?x=1";
    assert_unauthenticated(&caller.call(path, &[], EMPTY).await, path);
    let answered = caller
        .call(path, &[bearer_value(&with_scope(""))], EMPTY)
        .await;
    assert_insufficient(&answered, "greeter", path);
    assert_eq!(tree(server.root()), before);
}

/// Starts a server with a folder claim.
fn start_with_folder_claim() -> TestServer {
    let keys = KeyFile::new(&[rsa().jwk()]);
    start_with_claim(&keys, FOLDER_CLAIM)
}

fn start_with_claim(keys: &KeyFile, claim: &str) -> TestServer {
    TestServer::start_with(|config| {
        require_tokens(keys.settings())(config);
        config.folder_claim = Some(claim.to_owned());
    })
}

fn sign_for_folder(folder: &str) -> String {
    valid_token()
        .claim(FOLDER_CLAIM, &format!("{folder:?}"))
        .sign(rsa())
}

type FilesClient = FileControllerClient<Channel>;

/// Returns the failures of Read, Write, Stat, ReadStream, `open` and AbortUpload.
async fn failures(files: &mut FilesClient, token: &str, name: &str) -> [Option<(Code, String)>; 6] {
    let of_failure = |failure: Option<Failure>| {
        failure.map(|failure| (Code::from_i32(failure.code), failure.reason))
    };
    let of_status = |status: Status| {
        let info = tonic_types::StatusExt::get_details_error_info(&status);
        (status.code(), info.unwrap().reason)
    };
    let read = files.read(with_token(token, file(name, ""))).await;
    let written = files.write(with_token(token, file(name, "text"))).await;
    let request = StatRequest {
        filename: name.to_owned(),
    };
    let stat = files.stat(with_token(token, request)).await;
    let stream = files.read_stream(with_token(token, whole(name))).await;
    let stream = match stream {
        Ok(stream) => with_timeout(stream.into_inner().message()).await.err(),
        Err(status) => Some(status),
    };
    let mut upload = upload(files, token, name).await;
    let opened = upload.next_answer().await;
    let request = AbortUploadRequest {
        filename: name.to_owned(),
        upload_id: "id".to_owned(),
    };
    let aborted = files.abort_upload(with_token(token, request)).await;
    [
        of_failure(read.unwrap().into_inner().failure),
        of_failure(written.unwrap().into_inner().failure),
        stat.err().map(of_status),
        stream.map(of_status),
        opened.err().map(of_status),
        aborted.err().map(of_status),
    ]
}

async fn upload(files: &mut FilesClient, token: &str, name: &str) -> UploadStream {
    UploadStream::open_as(files, token, open(name, "id", b"hello")).await
}

#[tokio::test]
async fn folder_token_reaches_files_in_its_folder() {
    let server = start_with_folder_claim();
    let mut files = server.files().await;
    for folder in ["team-a", "team-a/", "deep/er/folder", "名前 ñ"] {
        let token = sign_for_folder(folder);
        let folder = folder.trim_end_matches('/');
        for name in ["x", "new/folder/x", "...", ".muxs", ".muxs/x"] {
            let name = format!("{folder}/{name}");
            // The file exists for the methods that read.
            let written = files.write(with_token(&token, file(&name, "text"))).await;
            assert_eq!(written.unwrap().into_inner().failure, None, "{name}");
            assert_eq!(fs::read_to_string(server.path(&name)).unwrap(), "text");
            let failures = failures(&mut files, &token, &name).await;
            assert_eq!(failures, [const { None }; 6], "{name}");
            fs::remove_dir_all(server.path(folder)).unwrap();
        }
    }
}

#[tokio::test]
async fn folder_token_reaches_nothing_else() {
    let server = start_with_folder_claim();
    for folder in ["team-a", "team-a-evil", "team-b", "team", "TEAM-A"] {
        fs::create_dir(server.path(folder)).unwrap();
        fs::write(server.path(folder).join("x"), "secret").unwrap();
    }
    fs::write(server.path("x"), "secret").unwrap();
    let before = tree(server.root());
    let mut files = server.files().await;
    let token = sign_for_folder("team-a");
    let outside = (Code::PermissionDenied, "OUTSIDE_FOLDER".to_owned());
    for name in [
        "x",
        "new",
        "team-a",
        "team-a-evil/x",
        "team-a-evil",
        "team-b/x",
        "team/x",
        "team",
        "TEAM-A/x",
        "team-ax",
        "b/team-a/x",
    ] {
        let failures = failures(&mut files, &token, name).await;
        assert_eq!(
            failures,
            [const { 0 }; 6].map(|_| Some(outside.clone())),
            "{name}"
        );
    }
    let invalid = (Code::InvalidArgument, "FILENAME_INVALID".to_owned());
    for name in [
        "../x",
        "team-a/../x",
        "team-a/../team-b/x",
        "team-a/..",
        "team-a/",
        "team-a//x",
        "team-a/./x",
        "./team-a/x",
        "/team-a/x",
        "team-a\\x",
        "team-a/../.muxs/lock",
        ".muxs/lock",
        "",
    ] {
        let failures = failures(&mut files, &token, name).await;
        assert_eq!(
            failures,
            [const { 0 }; 6].map(|_| Some(invalid.clone())),
            "{name}"
        );
    }
    assert_eq!(tree(server.root()), before);
}

/// A link can lead out of the folder and stay inside the root.
#[tokio::test]
async fn link_does_not_lead_out_of_the_token_folder() {
    let server = start_with_folder_claim();
    fs::create_dir_all(server.path("team-a/folder")).unwrap();
    fs::create_dir(server.path("team-b")).unwrap();
    fs::write(server.path("team-b/x"), "secret").unwrap();
    fs::write(server.path("team-a/x"), "text").unwrap();
    let link = |to: &str, name: &str| symlink(to, server.path(name)).unwrap();
    link("../team-b/x", "team-a/file");
    link("../team-b", "team-a/other");
    link("..", "team-a/up");
    link("../../team-b", "team-a/folder/up");
    link("../.muxs", "team-a/own");
    link("../.muxs/lock", "team-a/lock");
    link("../team-a/x", "team-a/round");
    link("/etc/passwd", "team-a/absolute");
    link("other", "team-a/chain");
    link("../team-b/new", "team-a/dangling");
    let before = tree(server.root());
    let mut files = server.files().await;
    let token = sign_for_folder("team-a");
    let outside = Some((Code::PermissionDenied, "OUTSIDE_FOLDER".to_owned()));
    for name in [
        "file",
        "other/x",
        "other/new",
        "other/new/folder/x",
        "up/x",
        "up/team-b/x",
        "up/team-a/x",
        "folder/up/x",
        "own/lock",
        "own/new",
        "lock",
        "round",
        "absolute",
        "chain/x",
        "dangling",
    ] {
        let name = format!("team-a/{name}");
        let failures = failures(&mut files, &token, &name).await;
        // AbortUpload succeeds because there is no upload.
        assert_eq!(
            failures[..5],
            [const { 0 }; 5].map(|_| outside.clone()),
            "{name}"
        );
    }
    assert_eq!(tree(server.root()), before);
    // A link within the folder is followed, and so is a link of the operator to the folder.
    link("x", "team-a/inside");
    link("team-a", "alias");
    for (token, name) in [
        (&token, "team-a/inside"),
        (&sign_for_folder("alias"), "alias/x"),
    ] {
        let read = files.read(with_token(token, file(name, ""))).await;
        assert_eq!(read.unwrap().into_inner().text, "text", "{name}");
    }
}

/// The link is created while the upload is open.
#[tokio::test]
async fn upload_does_not_finish_through_a_link_out_of_the_folder() {
    let server = start_with_folder_claim();
    fs::create_dir_all(server.path("team-a/folder")).unwrap();
    fs::create_dir(server.path("team-b")).unwrap();
    let mut files = server.files().await;
    let mut upload = upload(&mut files, &sign_for_folder("team-a"), "team-a/folder/x").await;
    upload.progress().await;
    fs::remove_dir(server.path("team-a/folder")).unwrap();
    symlink("../team-b", server.path("team-a/folder")).unwrap();
    upload.chunk(0, b"hello").await;
    upload.finish(b"hello").await;
    assert_failure(
        upload.wait_end().await,
        Code::PermissionDenied,
        "OUTSIDE_FOLDER",
    );
    assert_eq!(fs::read_dir(server.path("team-b")).unwrap().count(), 0);
}

/// This holds even if the folder is a link to the root.
#[tokio::test]
async fn server_directory_is_outside_every_token_folder() {
    let server = start_with_folder_claim();
    symlink(".", server.path("all")).unwrap();
    fs::create_dir(server.path("folder")).unwrap();
    symlink("..", server.path("folder/up")).unwrap();
    symlink(".muxs", server.path("own")).unwrap();
    symlink(".muxs/uploads", server.path("uploads")).unwrap();
    let before = tree(server.root());
    let mut files = server.files().await;
    for (folder, name) in [
        ("all", "all/.muxs/lock"),
        ("all", "all/.muxs/uploads/x"),
        ("all", "all/own/lock"),
        ("all/all", "all/all/.muxs/x"),
        ("folder/up", "folder/up/.muxs/lock"),
        ("own", "own/lock"),
        ("own", "own/new"),
        ("uploads", "uploads/x"),
    ] {
        let failures = failures(&mut files, &sign_for_folder(folder), name).await;
        let refused = Some((Code::InvalidArgument, "FILENAME_INVALID".to_owned()));
        assert_eq!(
            failures[..5],
            [const { 0 }; 5].map(|_| refused.clone()),
            "{name}"
        );
    }
    assert_eq!(tree(server.root()), before);
}

#[tokio::test]
async fn invalid_folder_claim_refuses_the_token() {
    let server = start_with_folder_claim();
    let mut caller = HeaderClient::connect(&server).await;
    for folder in [
        "\"\"",
        "\"/\"",
        "\"//\"",
        "\".\"",
        "\"..\"",
        "\"../x\"",
        "\"a/../b\"",
        "\"/a\"",
        "\"a//\"",
        "\"a//b\"",
        "\".muxs\"",
        "\".MUXS/x\"",
        "\"a\\\\b\"",
        "\"a\\u0000\"",
        "5",
        "null",
        "true",
        "[\"a\"]",
        "{}",
    ] {
        let token = valid_token().claim(FOLDER_CLAIM, folder).sign(rsa());
        assert_eq!(
            caller.greeting_code_with(&token).await,
            Code::Unauthenticated,
            "{folder}"
        );
    }
    for (first, second) in [("\"a\"", "\"b\""), ("\"a\"", "\"a\"")] {
        let twice = valid_token()
            .claim(FOLDER_CLAIM, first)
            .claim_before(FOLDER_CLAIM, second)
            .sign(rsa());
        assert_eq!(
            caller.greeting_code_with(&twice).await,
            Code::Unauthenticated,
            "{first} {second}"
        );
    }
    // A token without the claim reaches the whole root, and so does any token without a folder claim.
    let mut files = server.files().await;
    let token = valid_token().sign(rsa());
    let written = files.write(with_token(&token, file("x", "text"))).await;
    assert_eq!(written.unwrap().into_inner().code, 0);
    let unasked = server_with_key(rsa());
    let written = unasked
        .files()
        .await
        .write(with_token(&sign_for_folder("team-a"), file("x", "text")))
        .await;
    assert_eq!(written.unwrap().into_inner().code, 0);
}

/// The claim can be `sub`, for a folder per subject.
#[tokio::test]
async fn folder_claim_is_configurable() {
    for claim in [
        "sub",
        "client_id",
        "scope",
        "jti",
        "https://claims.example/folder",
    ] {
        let keys = KeyFile::new(&[rsa().jwk()]);
        let server = start_with_claim(&keys, claim);
        let token = match claim {
            // The list of scopes is a valid folder name.
            "scope" => with_scope(ALL_SCOPES),
            _ => valid_token().claim(claim, "\"team-a\"").sign(rsa()),
        };
        let folder = match claim {
            "scope" => ALL_SCOPES,
            _ => "team-a",
        };
        let mut files = server.files().await;
        let inside = format!("{folder}/x");
        let written = files.write(with_token(&token, file(&inside, "text"))).await;
        assert_eq!(written.unwrap().into_inner().failure, None, "{claim}");
        let written = files.write(with_token(&token, file("x", "text"))).await;
        let failure = written.unwrap().into_inner().failure.expect(claim);
        assert_eq!(failure.reason, "OUTSIDE_FOLDER", "{claim}");
        assert_eq!(list_client_files(server.root()), [server.path(&inside)]);
    }
}

/// Returns the regular files outside `.muxs`.
fn list_client_files(root: &Path) -> Vec<PathBuf> {
    let own = root.join(".muxs");
    let all = tree(root).into_iter();
    let files = all.filter(|(path, content)| content.is_some() && !path.starts_with(&own));
    files.map(|(path, _)| path).collect()
}
