//! The state of an upload after a crash at each point.

use std::{
    fs,
    path::{Path, PathBuf},
};

use muxs::{
    files::Settings,
    pb::{FileInfo, write_stream_response::State},
};

use crate::support::{
    TestServer,
    upload_stream::{UploadStream, content, crc32c, open, start_checkpointing_every_byte},
};

const CHUNK: usize = 10_000;

/// Returns the name and the content of the journal, and the staged bytes, of an upload with three of its
/// four chunks.
async fn pause_upload() -> (PathBuf, Vec<u8>, Vec<u8>) {
    let server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let content = content(4 * CHUNK);
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    for k in 0..3 {
        upload
            .chunks(&content[..(k + 1) * CHUNK], k * CHUNK, CHUNK)
            .await;
        upload.wait_persisted((k + 1) * CHUNK).await;
    }
    upload.half_close();
    upload.wait_end().await.unwrap();
    let journal = journal(server.root());
    let bytes = fs::read(journal.with_extension("data")).unwrap();
    let name = journal.file_name().unwrap().into();
    (name, fs::read(&journal).unwrap(), bytes)
}

/// Returns the journal of the only upload.
fn journal(root: &Path) -> PathBuf {
    let staged = fs::read_dir(root.join(".muxs/uploads")).unwrap();
    let mut journals = staged
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "journal"));
    journals.next().expect("a journal")
}

/// A journal ends at its first damaged record. The bytes up to its last checkpoint are durable; if there are
/// fewer, the upload restarts.
#[tokio::test]
async fn upload_resumes_from_its_whole_records_after_a_crash() {
    let (name, journal, bytes) = pause_upload().await;
    let content = content(4 * CHUNK);
    let mut torn: Vec<_> = (0..=journal.len())
        .step_by(11)
        .map(|length| journal[..length].to_vec())
        .collect();
    for at in (0..journal.len()).step_by(37) {
        let mut damaged = journal.clone();
        damaged[at] ^= 4;
        torn.push(damaged);
    }
    let longer = [bytes.as_slice(), &[7; 100_000]].concat();
    for (k, torn) in torn.iter().enumerate() {
        for staged in [&longer, &bytes[..3 * CHUNK - 1], &[]] {
            let root = tempfile::tempdir().unwrap();
            let uploads = root.path().join(".muxs/uploads");
            fs::create_dir_all(&uploads).unwrap();
            fs::write(uploads.join(&name), torn).unwrap();
            fs::write(uploads.join(&name).with_extension("data"), staged).unwrap();
            let same = torn
                .iter()
                .zip(&journal)
                .take_while(|(a, b)| a == b)
                .count();
            let whole = torn[..same].iter().filter(|&&byte| byte == b'\n').count();
            let persisted = whole.saturating_sub(1) * CHUNK;
            let expected = match staged.len() < persisted {
                true => 0,
                false => persisted,
            };

            let server = TestServer::serve(root, Settings::default(), |_| {});
            let mut files = server.files().await;
            let mut upload = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
            let progress = upload.progress().await;
            assert_eq!(progress.persisted_size, expected as u64, "{k}");
            assert_eq!(progress.persisted_crc32c, crc32c(&content[..expected]));
            upload.chunks(&content, expected, CHUNK).await;
            upload.finish(&content).await;
            upload.wait_committed().await;
            assert!(fs::read(server.path("a.bin")).unwrap() == content, "{k}");
        }
    }
}

/// Returns the state after a server was killed when the version of the file was on record: the file has been
/// renamed into place already, or is still staged.
async fn kill_at_rename(content: &[u8], renamed: bool) -> (TestServer, FileInfo) {
    let mut server = start_checkpointing_every_byte();
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("a.bin", "id", content)).await;
    upload.chunks(content, 0, CHUNK).await;
    upload.wait_persisted(content.len()).await;
    let journal = journal(server.root());
    let entries = fs::read(&journal).unwrap();
    upload.finish(content).await;
    let info = upload.wait_committed().await;
    server.stop();
    server.wait_stopped().await;
    let root = server.into_root();
    let private = root.path().join(".muxs");
    let key = journal.file_stem().unwrap();
    fs::rename(
        private.join("results").join(key),
        private.join("commits").join(key),
    )
    .unwrap();
    fs::write(&journal, &entries).unwrap();
    if !renamed {
        let staged = journal.with_extension("data");
        fs::rename(root.path().join("a.bin"), staged).unwrap();
    }
    (TestServer::serve(root, Settings::default(), |_| {}), info)
}

#[tokio::test]
async fn file_renamed_before_a_crash_is_reported_as_committed() {
    let content = content(4 * CHUNK);
    let (server, info) = kill_at_rename(&content, true).await;
    let mut files = server.files().await;
    let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(
        again.next_answer().await.unwrap(),
        Some(State::Committed(info))
    );
}

#[tokio::test]
async fn upload_not_renamed_before_a_crash_can_be_finished() {
    let content = content(4 * CHUNK);
    let (server, _) = kill_at_rename(&content, false).await;
    assert!(!server.path("a.bin").exists());
    let mut files = server.files().await;
    let mut again = UploadStream::open(&mut files, open("a.bin", "id", &content)).await;
    assert_eq!(again.progress().await.persisted_size, 4 * CHUNK as u64);
    again.finish(&content).await;
    again.wait_committed().await;
    assert!(fs::read(server.path("a.bin")).unwrap() == content);
}
