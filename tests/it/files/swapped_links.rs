//! Another program swaps a folder for a link into the server's directory while clients use it: nothing in
//! there is read or written.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use muxs::{files::Settings, pb::write_stream_response::State};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tonic::Code;

use super::{read, stat, while_changing, write};
use crate::support::{
    TestServer,
    mount::Mount,
    tree,
    upload_stream::{FilesClient, UploadStream, abort_upload, get, open, whole},
    with_timeout,
};

const SECRET: &[u8] = b"secret of another upload";
const PUBLIC: &str = "public";

/// Where the link leads while it is not the folder, by its path from the root.
const PLACES: [(&str, &str); 3] = [
    ("dir", ".muxs/uploads"),
    ("folder/dir", "../.muxs/uploads"),
    ("dir", ".muxs"),
];

/// Begins an upload of another client and pauses it. Returns the path of its staged bytes.
async fn stage_secret(server: &TestServer) -> PathBuf {
    let mut files = server.files().await;
    let mut upload = UploadStream::open(&mut files, open("other.bin", "id", &[0; 100])).await;
    upload.chunk(0, SECRET).await;
    upload.wait_persisted(SECRET.len()).await;
    upload.half_close();
    upload.wait_end().await.unwrap();
    let staged = tree(&server.path(".muxs/uploads")).into_iter();
    let mut staged = staged.filter(|(_, content)| content.as_deref() == Some(SECRET));
    staged.next().expect("the staged bytes").0
}

#[tokio::test]
async fn swapped_link_leads_no_read_into_the_server_directory() {
    while_links_are_swapped(read_many_times).await;
}

#[tokio::test]
async fn swapped_link_leads_no_write_into_the_server_directory() {
    while_links_are_swapped(write_many_times).await;
}

/// Uses a name below each of the links while it is swapped for a folder.
async fn while_links_are_swapped(use_name: impl AsyncFn(&mut FilesClient, &str)) {
    // More calls fit into the time where no disk is waited for.
    let Some(memory) = Mount::tmpfs("size=64m") else {
        return;
    };
    for (link, place) in PLACES {
        let root = tempfile::tempdir_in(memory.path()).unwrap();
        let settings = Settings {
            checkpoint_bytes: 1,
            ..Settings::default()
        };
        let server = TestServer::serve(root, settings, |_| {});
        let secret = stage_secret(&server).await;
        let name = secret.strip_prefix(server.path(".muxs")).unwrap();
        let name = match place {
            ".muxs" => name,
            _ => name.strip_prefix("uploads").unwrap(),
        };
        let path = format!("{link}/{}", name.display());
        let public = server.path("public").join(name);
        fs::create_dir_all(public.parent().unwrap()).unwrap();
        fs::write(&public, PUBLIC).unwrap();
        fs::create_dir_all(server.path("folder")).unwrap();
        let up = "../".repeat(link.matches('/').count());
        symlink(format!("{up}public"), server.path(link)).unwrap();
        symlink(place, server.path(&format!("{link}2"))).unwrap();

        let (first, second) = (server.path(link), server.path(&format!("{link}2")));
        let swap = move || {
            renameat_with(CWD, &first, CWD, &second, RenameFlags::EXCHANGE).unwrap();
        };
        let mut files = server.files().await;
        while_changing(swap, use_name(&mut files, &path)).await;
        assert_eq!(fs::read(&secret).unwrap(), SECRET, "{path}");
        // What a call has staged is in place or removed soon after the end of the call.
        let settled = async {
            let staged = |content: Option<Vec<u8>>| content.as_deref() == Some(PUBLIC.as_bytes());
            while tree(&server.path(".muxs")).into_values().any(staged) {
                tokio::task::yield_now().await;
            }
        };
        with_timeout(settled).await;
    }
}

/// Calls that meet the link fail.
async fn read_many_times(files: &mut FilesClient, path: &str) {
    for round in 0..800 {
        let content = read(files, path).await;
        assert!(
            content.failure.is_some() || content.text == PUBLIC,
            "{content:?} after {round} reads"
        );
        if let Ok(info) = stat(files, path).await {
            assert_eq!(info.size, PUBLIC.len() as u64, "{info:?} in round {round}");
        }
        if let Ok((_, bytes)) = get(files, whole(path)).await {
            assert_eq!(bytes, PUBLIC.as_bytes(), "in round {round}");
        }
    }
}

async fn write_many_times(files: &mut FilesClient, path: &str) {
    for round in 0..500 {
        write(files, path, PUBLIC).await;
        upload(files, path, &format!("round-{round}")).await;
    }
}

/// Uploads the public text. An upload that met the link when it was finished is aborted.
async fn upload(files: &mut FilesClient, path: &str, id: &str) {
    let mut upload = UploadStream::open(files, open(path, id, PUBLIC.as_bytes())).await;
    upload.chunk(0, PUBLIC.as_bytes()).await;
    upload.finish(PUBLIC.as_bytes()).await;
    loop {
        match upload.next_answer().await {
            Ok(Some(State::Committed(_))) => return,
            Ok(Some(State::Progress(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    // An abort may meet the link, too.
    let aborted = async {
        while let Err(status) = abort_upload(files, path, id).await {
            if status.code() == Code::NotFound {
                break;
            }
        }
    };
    with_timeout(aborted).await;
}
