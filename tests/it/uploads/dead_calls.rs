//! An open or abort of an upload that ended does nothing to the stream that comes after it.

use std::{fs, path::Path, time::Duration};

use futures::future::join_all;
use muxs::pb::{
    AbortUploadRequest, AbortUploadResponse, FinishUpload, OpenUpload, WriteStreamRequest,
    WriteStreamResponse, write_stream_request::Step, write_stream_response::State,
};
use tonic::{Code, Status};

use crate::support::{
    Program,
    methods::{ABORT_UPLOAD, WRITE_STREAM},
    raw_call::{CallConnection, RawCall},
    traced::{SERVER, faulty, kill_traced, serving, strace},
    upload_stream::{chunk, crc32c, open},
    with_timeout,
};

const HELLO: &[u8] = b"hello";

/// The number of durable bytes of each upload.
const PERSISTED: usize = 3;

const LANES: usize = 30;
const ROUNDS: usize = 4;

/// How many opens of one upload are cancelled before the one that stays.
const CANCELLED: u64 = 4;

/// Starts a server whose checkpoints take a while, in which an upload can be neither taken over nor removed.
async fn start(folder: &Path) -> Option<Program> {
    let slow = faulty("fdatasync", "delay_enter=300ms");
    let mut command = strace(&slow, &folder.join("trace"))?;
    command.arg(SERVER);
    let mut command = serving(command, &folder.join("root"));
    command.args(["--checkpoint-bytes", "1B"]);
    Some(Program::start_command(command).await)
}

/// Begins a stream that opens an upload.
async fn begin(connection: &CallConnection, plan: &OpenUpload) -> RawCall {
    let mut call = connection.begin(WRITE_STREAM, None).await;
    send(&mut call, Step::Open(plan.clone()));
    call
}

fn send(call: &mut RawCall, step: Step) {
    call.send(&WriteStreamRequest { step: Some(step) });
}

async fn next(call: &mut RawCall) -> Result<State, Status> {
    let response = call.next::<WriteStreamResponse>().await?;
    Ok(response.expect("the call goes on").state.unwrap())
}

/// Begins an upload and leaves it in the middle of a checkpoint, which holds it up.
async fn begin_checkpoint(
    connection: &CallConnection,
    folder: &Path,
    plan: &OpenUpload,
) -> RawCall {
    let mut call = begin(connection, plan).await;
    next(&mut call).await.unwrap();
    let syncs = || {
        fs::read_to_string(folder.join("trace"))
            .unwrap()
            .matches("fdatasync(")
            .count()
    };
    let before = syncs();
    send(&mut call, Step::Chunk(chunk(0, &HELLO[..PERSISTED])));
    let begun = async {
        while syncs() == before {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(begun).await;
    call
}

/// Goes on with an upload to its end. Returns where it began.
async fn complete(mut call: RawCall) -> Result<usize, Status> {
    let State::Progress(progress) = next(&mut call).await? else {
        panic!("the upload is finished");
    };
    let begun = progress.persisted_size as usize;
    send(&mut call, Step::Chunk(chunk(begun, &HELLO[begun..])));
    let finish = FinishUpload {
        size: HELLO.len() as u64,
        crc32c: Some(crc32c(HELLO)),
    };
    send(&mut call, Step::Finish(finish));
    while !matches!(next(&mut call).await?, State::Committed(_)) {}
    Ok(begun)
}

#[tokio::test]
async fn cancelled_open_does_not_supersede_a_later_stream() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start(folder.path()).await else {
        return;
    };
    let mut failures = Vec::new();
    for round in 0..ROUNDS {
        let lanes = (0..LANES).map(async |lane| {
            let connection = CallConnection::open(program.address).await;
            let plan = open("a.bin", &format!("{lane}-{round}"), HELLO);
            let first = begin_checkpoint(&connection, folder.path(), &plan).await;
            for pause in 0..CANCELLED {
                let cancelled = begin(&connection, &plan).await;
                // The server may see the open alone, or with its end.
                tokio::time::sleep(Duration::from_millis((lane as u64 + pause) % 3)).await;
                cancelled.cancel();
            }
            let completed = complete(begin(&connection, &plan).await).await;
            drop(first);
            completed
        });
        failures.extend(join_all(lanes).await.into_iter().filter_map(Result::err));
    }
    kill_traced(program).await;
    let count = failures.len();
    assert_eq!(count, 0, "of {}: {:?}", LANES * ROUNDS, failures[0]);
}

/// DEADLINE_EXCEEDED says that the upload was not removed and will not be.
#[tokio::test]
async fn abort_that_ended_does_nothing_to_a_later_stream() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start(folder.path()).await else {
        return;
    };
    let lanes = (0..LANES).map(async |lane| {
        let connection = CallConnection::open(program.address).await;
        let plan = open("a.bin", &format!("{lane}"), HELLO);
        let first = begin_checkpoint(&connection, folder.path(), &plan).await;
        let request = AbortUploadRequest {
            filename: plan.filename.clone(),
            upload_id: plan.upload_id.clone(),
        };
        let deadline = Duration::from_millis(50 * (1 + lane as u64));
        let abort = connection
            .begin_unary(ABORT_UPLOAD, &request, Some(deadline))
            .await;
        let expected = match lane % 3 {
            // Whether the server aborts an upload before it sees the end of the call is not known.
            0 => {
                tokio::time::sleep(deadline / 2).await;
                abort.cancel();
                None
            }
            _ => match abort.response::<AbortUploadResponse>().await {
                Ok(_) => Some(0),
                Err(status) => {
                    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                    Some(PERSISTED)
                }
            },
        };
        let begun = complete(begin(&connection, &plan).await).await;
        drop(first);
        match begun {
            Ok(begun) if expected.is_none_or(|expected| expected == begun) => None,
            other => Some((other, expected)),
        }
    });
    let failures: Vec<_> = join_all(lanes).await.into_iter().flatten().collect();
    kill_traced(program).await;
    assert!(
        failures.is_empty(),
        "{} of {LANES}: {:?}",
        failures.len(),
        failures[0]
    );
}
