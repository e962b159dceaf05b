//! The server program under strace, which records its system calls, delays them, or makes them fail.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
};

use super::{
    assertions::{report_skip, with_timeout},
    program::{Program, children, kill},
};

/// The server program.
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_server");

/// Starts the server program over `root` under strace, which writes to `trace`. `None` if strace is not
/// available.
pub(crate) async fn start_traced(root: &Path, trace: &Path) -> Option<Program> {
    let calls = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdirat,symlinkat,\
                 writev";
    under_strace(root, &["-e", &format!("trace={calls}"), "-o"], trace).await
}

/// Starts a server whose system calls of these names have a fault, such as `error=EIO`. Only these are traced.
pub(crate) async fn start_faulty(
    root: &Path,
    trace: &Path,
    calls: &str,
    fault: &str,
) -> Option<Program> {
    let mut command = strace(&faulty(calls, fault), trace)?;
    command.arg(SERVER);
    Some(Program::start_command(serving(command, root)).await)
}

pub(crate) async fn under_strace(root: &Path, options: &[&str], trace: &Path) -> Option<Program> {
    let mut command = strace(options, trace)?;
    command.arg(SERVER);
    Some(Program::start_command(serving(command, root)).await)
}

/// The options of strace for system calls with a fault.
pub(crate) fn faulty(calls: &str, fault: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
    ["--seccomp-bpf", "-e", &trace, "-e", &inject, "-o"]
        .map(str::to_owned)
        .to_vec()
}

/// A command that runs a program, its next argument, under strace. The last option is the one for the file of
/// the trace.
pub(crate) fn strace(options: &[impl AsRef<OsStr>], trace: &Path) -> Option<Command> {
    if Command::new("strace").arg("--version").output().is_err() {
        report_skip("no strace, so the system calls are neither checked nor disturbed");
        return None;
    }
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "16"])
        .args(options)
        .arg(trace);
    Some(command)
}

/// Adds the arguments of a server on a free port.
pub(crate) fn serving(mut command: Command, root: &Path) -> Command {
    command
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(root);
    command
}

/// Faults in the system calls of a running server, until it is dropped.
pub(crate) struct Faults {
    strace: Child,
    /// Strace ends when nobody reads its messages.
    _messages: Lines<BufReader<ChildStderr>>,
}

impl Faults {
    /// Adds `fault` to the system calls of these names that concern one of `paths`, or to all if there are none.
    /// `None` without strace or the right to trace another process.
    pub(crate) async fn attach(
        program: &Program,
        paths: &[&Path],
        calls: &str,
        fault: &str,
        trace: &Path,
    ) -> Option<Self> {
        let (traced, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}"));
        let mut options = vec!["-e", &traced, "-e", &inject];
        for path in paths {
            options.extend(["-P", path.to_str().unwrap()]);
        }
        options.push("-o");
        let mut command = strace(&options, trace)?;
        command
            .args(["-p", &program.id().to_string()])
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut strace = command.kill_on_drop(true).spawn().unwrap();
        let mut messages = BufReader::new(strace.stderr.take().unwrap()).lines();
        while let Some(message) = with_timeout(messages.next_line()).await.unwrap() {
            if message.contains(" attached") {
                return Some(Self {
                    strace,
                    _messages: messages,
                });
            }
        }
        report_skip("no right to trace a process, so the disk of a running server does not fail");
        None
    }

    /// Ends the faults.
    pub(crate) async fn detach(mut self) {
        kill(Signal::TERM, self.strace.id().unwrap());
        with_timeout(self.strace.wait()).await.unwrap();
    }
}

/// Returns the process of a traced server, which is the child of strace.
pub(crate) fn traced_server(program: &Program) -> u32 {
    let children = children(program.id());
    assert_eq!(children.len(), 1, "{children:?}");
    children[0].cast_unsigned()
}

/// Stops a traced server, which ends strace.
pub(crate) async fn stop_traced(mut program: Program) {
    kill(Signal::TERM, traced_server(&program));
    assert!(program.wait_end().await.success());
}

/// Kills a traced server and strace, which would wait for the end of an injected delay.
pub(crate) async fn kill_traced(mut program: Program) {
    kill(Signal::KILL, traced_server(&program));
    program.signal(Signal::KILL);
    program.wait_end().await;
}

/// Asserts the order of system calls, each identified by some words, before the server got SIGTERM.
#[track_caller]
pub(crate) fn assert_order(trace: &str, steps: &[(&str, Vec<String>)]) {
    // Writes after the signal are not the answer.
    let (trace, _) = trace.split_once("--- SIGTERM").unwrap();
    let mut lines = trace.lines();
    for (step, words) in steps {
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "out of order: {step}\n{trace}");
    }
}
