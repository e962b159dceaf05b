use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use muxs_bench::{
    crc32c,
    pb::{
        Chunk, FileInfo, FinishUpload, OpenUpload, UploadProgress, WriteStreamRequest,
        WriteStreamResponse, write_stream_request::Step, write_stream_response::State,
    },
};
use tempfile::NamedTempFile;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tonic::{Status, Streaming};

use super::{CHANNEL_CAPACITY, Files, MAX_CHUNK_BYTES};

/// Receives an upload, from `open` to `finish`.
pub(super) async fn receive_file(
    files: Files,
    mut requests: Streaming<WriteStreamRequest>,
    answers: Sender<Result<WriteStreamResponse, Status>>,
) -> Result<(), Status> {
    let Some(Step::Open(open)) = next(&mut requests).await? else {
        return Err(Status::invalid_argument("the first step is not open"));
    };
    let OpenUpload {
        filename,
        upload_id,
        ..
    } = open;
    let path = files.path(&filename)?;
    let progress = State::Progress(UploadProgress {
        upload_id,
        max_chunk_bytes: MAX_CHUNK_BYTES as u32,
        ..UploadProgress::default()
    });
    answer(&answers, progress).await;
    let (steps, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let writing = tokio::task::spawn_blocking(move || write(&files.root, &path, receiver));
    while let Some(step) = next(&mut requests).await? {
        let is_last = matches!(step, Step::Finish(_));
        // Sending fails after writing has failed, which is reported below.
        if steps.send(step).await.is_err() || is_last {
            break;
        }
    }
    drop(steps);
    let written = writing.await.map_err(|_| Status::internal("a panic"))?;
    let committed = State::Committed(FileInfo {
        filename,
        size: written?,
        ..FileInfo::default()
    });
    answer(&answers, committed).await;
    Ok(())
}

async fn next(requests: &mut Streaming<WriteStreamRequest>) -> Result<Option<Step>, Status> {
    Ok(requests.message().await?.and_then(|request| request.step))
}

async fn answer(answers: &Sender<Result<WriteStreamResponse, Status>>, state: State) {
    let state = Some(state);
    // Sending fails when the client is gone.
    let _ = answers.send(Ok(WriteStreamResponse { state })).await;
}

/// Writes the chunks to a file that appears when it is finished. Returns its size in bytes.
fn write(root: &Path, path: &PathBuf, mut steps: Receiver<Step>) -> Result<u64, Status> {
    let staged = NamedTempFile::new_in(root)?;
    let mut size = 0;
    let mut sum = 0;
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Open(_) => return Err(Status::invalid_argument("it is open")),
            Step::Chunk(chunk) => {
                check(&chunk, size)?;
                staged.as_file().write_all_at(&chunk.data, size)?;
                size += chunk.data.len() as u64;
                sum = crc32c(sum, &chunk.data);
            }
            Step::Finish(finish) => {
                let whole = FinishUpload {
                    size,
                    crc32c: finish.crc32c.and(Some(sum)),
                };
                if finish != whole {
                    return Err(Status::invalid_argument("not what was announced"));
                }
                staged.as_file().sync_data()?;
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                staged.persist(path).map_err(|failure| failure.error)?;
                return Ok(size);
            }
        }
    }
    Err(Status::cancelled("it was not finished"))
}

fn check(chunk: &Chunk, expected: u64) -> Result<(), Status> {
    if chunk.offset != expected {
        return Err(Status::aborted(
            "the chunk does not go on where the last one ended",
        ));
    }
    match chunk.crc32c {
        Some(sum) if sum != crc32c(0, &chunk.data) => Err(Status::aborted("a corrupt chunk")),
        _ => Ok(()),
    }
}
