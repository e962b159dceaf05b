//! Random sequences of steps of clients and servers, compared with a model of uploads.

use std::{collections::HashMap, fs};

use muxs::{
    files::Settings,
    pb::{AbortUploadRequest, write_stream_response::State},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use tonic::Code;

use crate::support::{
    TestServer, assert_failure,
    upload_stream::{FilesClient, UploadStream, content, crc32c, open},
};

/// A step of one of two uploads to the same filename.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Chunk(usize),
    HalfClose,
    Cancel,
    Finish,
    Abort,
    Restart,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        4 => Just(Step::Open),
        6 => (1..40_000usize).prop_map(Step::Chunk),
        1 => Just(Step::HalfClose),
        1 => Just(Step::Cancel),
        2 => Just(Step::Finish),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
    ];
    (0..2usize, step)
}

/// The state of an upload in the model.
#[derive(Debug, Default)]
struct Known {
    accepted: usize,
    finished: bool,
}

struct World {
    server: Option<TestServer>,
    files: FilesClient,
    /// The open stream of each upload.
    streams: HashMap<usize, UploadStream>,
    model: HashMap<usize, Known>,
    /// The content of the target, if it exists.
    target: Option<Vec<u8>>,
}

const NAME: &str = "a.bin";

impl World {
    async fn new() -> Self {
        let server = serve(tempfile::tempdir().unwrap());
        Self {
            files: server.files().await,
            server: Some(server),
            streams: HashMap::new(),
            model: HashMap::new(),
            target: None,
        }
    }

    async fn apply(&mut self, id: usize, step: Step) {
        let whole = whole(id);
        let plan = open(NAME, &format!("upload-{id}"), &whole);
        let plan = muxs::pb::OpenUpload { size: None, ..plan };
        match step {
            Step::Open => {
                let mut stream = UploadStream::open(&mut self.files, plan).await;
                let known = self.model.entry(id).or_default();
                match stream.next_answer().await.unwrap().unwrap() {
                    State::Committed(info) => {
                        assert!(known.finished);
                        assert_eq!(info.size, known.accepted as u64);
                        return;
                    }
                    State::Progress(progress) => {
                        assert!(!known.finished);
                        assert_eq!(progress.persisted_size, known.accepted as u64);
                        let crc = crc32c(&whole[..known.accepted]);
                        assert_eq!(progress.persisted_crc32c, crc);
                    }
                }
                if let Some(mut older) = self.streams.insert(id, stream) {
                    assert_failure(older.wait_end().await, Code::Aborted, "SUPERSEDED");
                }
            }
            Step::Chunk(length) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    let known = self.model.entry(id).or_default();
                    let end = whole.len().min(known.accepted + length);
                    if end > known.accepted {
                        stream
                            .chunk(known.accepted, &whole[known.accepted..end])
                            .await;
                        stream.wait_persisted(end).await;
                        known.accepted = end;
                    }
                }
            }
            Step::HalfClose => {
                if let Some(mut stream) = self.streams.remove(&id) {
                    stream.half_close();
                    stream.wait_persisted(self.model[&id].accepted).await;
                    assert_eq!(stream.next_answer().await.unwrap(), None);
                }
            }
            Step::Cancel => drop(self.streams.remove(&id)),
            Step::Finish => {
                if let Some(mut stream) = self.streams.remove(&id) {
                    let known = self.model.get_mut(&id).unwrap();
                    let content = &whole[..known.accepted];
                    stream.finish(content).await;
                    assert_eq!(stream.wait_committed().await.size, known.accepted as u64);
                    known.finished = true;
                    self.target = Some(content.to_vec());
                }
            }
            Step::Abort => {
                let request = AbortUploadRequest {
                    filename: NAME.to_owned(),
                    upload_id: plan.upload_id,
                };
                let aborted = self.files.abort_upload(request).await;
                // Nothing is left of a stream that sent no byte.
                let exists = |known: &Known| known.accepted > 0 || self.streams.contains_key(&id);
                if self
                    .model
                    .get(&id)
                    .is_some_and(|known| !known.finished && exists(known))
                {
                    aborted.unwrap();
                    self.model.remove(&id);
                    if let Some(mut stream) = self.streams.remove(&id) {
                        assert_failure(stream.wait_end().await, Code::Aborted, "SUPERSEDED");
                    }
                } else {
                    assert_failure(aborted, Code::NotFound, "NOT_FOUND");
                    // The result of a finished upload is forgotten.
                    self.model.remove(&id);
                }
            }
            Step::Restart => {
                self.streams.clear();
                let mut stopped = self.server.take().unwrap();
                stopped.stop();
                stopped.wait_stopped().await;
                let server = serve(stopped.into_root());
                self.files = server.files().await;
                self.server = Some(server);
            }
        }
        let path = self.server.as_ref().unwrap().path(NAME);
        assert!(fs::read(path).ok() == self.target);
    }
}

/// The complete content of an upload.
fn whole(id: usize) -> Vec<u8> {
    content(300_000 + id)
}

fn serve(root: tempfile::TempDir) -> TestServer {
    let settings = Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    };
    TestServer::serve(root, settings, |_| {})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn uploads_match_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for (id, step) in steps {
                world.apply(id, step).await;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
