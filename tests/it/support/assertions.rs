//! Assertions in the terms of the contract, and bounded waiting.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The longest that one step of a test may take. A timeout fails the test; no test waits for it.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Awaits a future, and fails the test after [`TEST_TIMEOUT`].
pub(crate) async fn with_timeout<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TEST_TIMEOUT, future)
        .await
        .expect("in time")
}

/// Reports a skipped test on standard error, which the test harness does not capture.
pub(crate) fn report_skip(why: &str) {
    let skipped = format!("SKIPPED: {why}\n");
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
}

/// Asserts the code and the machine-readable reason of a failed call.
#[track_caller]
pub(crate) fn assert_failure<T>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let Err(status) = result else {
        panic!("succeeded, where {code:?} {reason} was expected");
    };
    assert_eq!(status.code(), code, "{status:?}");
    let info = status
        .get_details_error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason, "muxs")
    );
    status
}

/// Returns a value of the metadata of a failure's ErrorInfo.
#[track_caller]
pub(crate) fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().unwrap();
    info.metadata
        .get(key)
        .unwrap_or_else(|| panic!("no {key} in {:?}", info.metadata))
        .clone()
}

/// Returns the path of each entry below a directory, and the content of each regular file.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let content = kind.is_file().then(|| fs::read(entry.path()).unwrap());
            if kind.is_dir() {
                folders.push(entry.path());
            }
            found.insert(entry.path(), content);
        }
    }
    found
}
