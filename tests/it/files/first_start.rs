//! What the first start in a root makes durable before a call is answered: without it, a power cut soon
//! afterwards would leave no sign of itself.

use std::{fs, path::Path};

use super::stat;
use crate::support::traced::{stop_traced, under_strace};

const CALLS: &str =
    "trace=mkdir,mkdirat,write,pwrite64,fsync,fdatasync,syncfs,writev,sendto,sendmsg";

/// Returns the system calls of a server until it answers a call.
async fn trace_of_the_first_call(root: &Path, trace: &Path) -> Option<String> {
    let program = under_strace(root, &["-e", CALLS, "-o"], trace).await?;
    stat(&mut program.files().await, "missing")
        .await
        .unwrap_err();
    stop_traced(program).await;
    let trace = fs::read_to_string(trace).unwrap();
    let answer = |line: &str| line.contains("<socket:") || line.contains("<TCP");
    let before = trace.lines().take_while(|line| !answer(line));
    Some(before.map(|line| format!("{line}\n")).collect())
}

/// Asserts that the last line with `change` comes before a sync of `path`.
#[track_caller]
fn assert_synced_after(trace: &str, change: &str, path: &Path) {
    let synced = format!("<{}>", path.display());
    let changed = trace.rfind(change);
    let changed = changed.unwrap_or_else(|| panic!("{change} is not in\n{trace}"));
    let mut after = trace[changed..].lines();
    let is_synced = after.any(|line| line.contains("sync(") && line.contains(&synced));
    assert!(is_synced, "no sync of {synced} after {change}\n{trace}");
}

#[tokio::test]
async fn server_directory_and_lock_are_durable_before_the_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    fs::create_dir(&root).unwrap();
    let root = root.canonicalize().unwrap();
    let private = root.join(".muxs");
    let Some(first) = trace_of_the_first_call(&root, &trace).await else {
        return;
    };
    assert_synced_after(&first, "\".muxs\"", &root);
    let made_below = format!("<{}>, \"", private.display());
    assert_synced_after(&first, &made_below, &private);
    let lock = private.join("lock");
    let signed = format!("<{}>, \"", lock.display());
    assert_synced_after(&first, &signed, &lock);

    // The next start signs the lock again.
    let next = trace_of_the_first_call(&root, &trace).await.unwrap();
    assert_synced_after(&next, &signed, &lock);
}
