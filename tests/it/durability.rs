//! What is answered is on the disk: the order of the system calls behind a Write.

use std::{fs, io::Write, path::Path, process::Command};

use rustix::process::Signal;

use crate::support::{Program, file, kill, tree};

/// The server program over `root`, with its system calls written to `trace`; None where that cannot
/// be had.
async fn traced(root: &Path, trace: &Path) -> Option<Program> {
    if Command::new("strace").arg("--version").output().is_err() {
        // Past the capture of output: a skip is loud.
        let skipped = b"SKIPPED: no strace, so the order of system calls is not checked\n";
        std::io::stderr().write_all(skipped).unwrap();
        return None;
    }
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "16", "-e"])
        .arg("trace=write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdirat,writev")
        .arg("-o")
        .arg(trace)
        .arg(env!("CARGO_BIN_EXE_server"))
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(root);
    Some(Program::start_command(command).await)
}

/// Stops a traced server: it is the child of strace, which ends with it.
async fn stop_traced(mut program: Program) {
    let children = format!("/proc/{0}/task/{0}/children", program.id());
    let server = fs::read_to_string(children).unwrap();
    kill(Signal::TERM, server.trim().parse().unwrap());
    assert!(program.ended().await.success());
}

/// Power cuts cannot be had in a test; the calls that withstand them can be watched.
#[tokio::test]
async fn a_write_is_synced_renamed_and_synced_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let Some(program) = traced(&root, &trace).await else {
        return;
    };
    let request = file("new/a.txt", "durable content");
    let status = program
        .files()
        .await
        .write(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.code, 0);
    stop_traced(program).await;

    let trace = fs::read_to_string(&trace).unwrap();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let root = format!("{folder}/root");
    let staged = format!("<{root}/.muxs/writes/0>");
    let steps = [
        (
            "the root's name is synced",
            vec!["fsync(".to_owned(), format!("<{folder}>")],
        ),
        (
            "the content is written",
            vec![
                "pwrite64(".to_owned(),
                staged.clone(),
                "durable content".to_owned(),
            ],
        ),
        ("the content is synced", vec!["sync(".to_owned(), staged]),
        (
            "the folder is made",
            vec!["mkdirat(".to_owned(), "\"new\"".to_owned()],
        ),
        (
            "the folder's name is synced",
            vec!["fsync(".to_owned(), format!("<{root}>")],
        ),
        (
            "the file is put in its place",
            vec!["rename".to_owned(), "\"a.txt\"".to_owned()],
        ),
        (
            "the file's name is synced",
            vec!["fsync(".to_owned(), format!("<{root}/new>")],
        ),
        (
            "the call is answered",
            vec!["writev(".to_owned(), "<socket:".to_owned()],
        ),
    ];
    // What it says afterwards is not the answer.
    let (trace, _) = trace.split_once("--- SIGTERM").unwrap();
    let mut lines = trace.lines();
    for (step, words) in &steps {
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "not in its order: {step}\n{trace}");
    }
}

/// Folders that a killed server made may have no durable names yet, and nobody knows which.
#[tokio::test]
async fn a_start_after_a_crash_makes_all_durable_and_another_does_not_wait_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let mut killed = Program::start(&root).await;
    killed.signal(Signal::KILL);
    killed.ended().await;
    for crashed in [true, false] {
        let Some(program) = traced(&root, &trace).await else {
            return;
        };
        stop_traced(program).await;
        let trace = fs::read_to_string(&trace).unwrap();
        assert_eq!(trace.contains("syncfs("), crashed, "{trace}");
    }
}

/// The lock of a killed server is gone with it, and so, at the next start, is what it had not
/// finished.
#[tokio::test]
async fn a_killed_server_leaves_nothing_that_the_next_one_stumbles_over() {
    let root = tempfile::tempdir().unwrap();
    let mut first = Program::start(root.path()).await;
    let request = file("a.txt", "kept");
    first.files().await.write(request.clone()).await.unwrap();
    fs::write(root.path().join(".muxs/writes/7"), "half").unwrap();
    fs::create_dir_all(root.path().join(".muxs/writes/what/ever")).unwrap();
    first.signal(Signal::KILL);
    first.ended().await;

    let second = Program::start(root.path()).await;
    let content = second
        .files()
        .await
        .read(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(content.text, "kept");
    assert!(tree(&root.path().join(".muxs/writes")).is_empty());
}
