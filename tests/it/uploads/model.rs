//! Random sequences of steps of clients, servers and other processes, compared with a model of one file that a Write
//! and two uploads replace. Its folder is a link that another process points to one of two folders.

use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    time::Duration,
};

use futures::{StreamExt, stream};
use muxs::{
    files::Settings,
    pb::{
        self, AbortUploadRequest, OpenUpload, StatRequest, WriteStreamRequest,
        file_controller_client::FileControllerClient, write_stream_request,
        write_stream_response::State,
    },
};
use proptest::{prelude::*, test_runner::TestCaseError};
use tempfile::TempDir;
use tonic::{Code, Request, Status};

use crate::support::{
    TestServer, assert_failure, file,
    mount::Mount,
    plain_connection::PlainConnection,
    upload_stream::{UploadStream, crc32c},
    with_timeout,
};

const NAME: &str = "link/a.txt";
const FOLDERS: [&str; 2] = ["one", "two"];

/// The size of a whole upload.
const SIZE: usize = 300_000;

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    /// A Write that ends when its deadline is over, if it takes so long.
    WriteWithin(Duration, usize),
    /// A Write after one that was cancelled.
    WriteAfterCancelled(Duration, usize),
    /// A Write while another process moves the link.
    WriteWhileLinkMoves(usize),
    Read,
    Upload(usize, UploadStep),
    MoveLink,
    SetReadOnly(bool),
    Restart,
    /// A Write and an upload to a filesystem below the root.
    WriteBelowMount,
}

/// A step of one of the uploads.
#[derive(Clone, Debug)]
enum UploadStep {
    Open,
    /// An open after one that was cancelled.
    OpenAfterCancelled(Duration),
    /// An open after one whose deadline may be over.
    OpenAfterDeadline(Duration),
    Chunk(usize),
    HalfClose,
    Cancel,
    Finish,
    /// `finish` in a stream that is then cancelled, and another open.
    FinishAndCancel(Duration),
    Abort,
    AbortWithin(Duration),
}

fn step() -> BoxedStrategy<Step> {
    let size = || prop_oneof![3 => 1..1000_usize, 1 => 1..1_000_000_usize];
    prop_oneof![
        2 => size().prop_map(Step::Write),
        3 => (duration(), size()).prop_map(|(within, size)| Step::WriteWithin(within, size)),
        2 => (duration(), size()).prop_map(|(after, size)| Step::WriteAfterCancelled(after, size)),
        1 => size().prop_map(Step::WriteWhileLinkMoves),
        1 => Just(Step::Read),
        24 => (0..2_usize, upload_step()).prop_map(|(id, step)| Step::Upload(id, step)),
        2 => Just(Step::MoveLink),
        2 => any::<bool>().prop_map(Step::SetReadOnly),
        1 => Just(Step::Restart),
    ]
    .boxed()
}

fn upload_step() -> BoxedStrategy<UploadStep> {
    prop_oneof![
        6 => Just(UploadStep::Open),
        2 => duration().prop_map(UploadStep::OpenAfterCancelled),
        2 => duration().prop_map(UploadStep::OpenAfterDeadline),
        12 => (1..40_000_usize).prop_map(UploadStep::Chunk),
        2 => Just(UploadStep::HalfClose),
        2 => Just(UploadStep::Cancel),
        3 => Just(UploadStep::Finish),
        2 => duration().prop_map(UploadStep::FinishAndCancel),
        2 => Just(UploadStep::Abort),
        2 => duration().prop_map(UploadStep::AbortWithin),
    ]
    .boxed()
}

/// From less than a call takes to more.
fn duration() -> impl Strategy<Value = Duration> {
    (0..9_u32, 0..100_u64)
        .prop_map(|(doublings, part)| Duration::from_micros((50 << doublings) * (100 + part) / 100))
}

/// The state of an upload in the model.
#[derive(Debug, Default)]
struct Known {
    content: String,
    accepted: usize,
    finished: bool,
    /// Whether a stream without a byte was cancelled, which the server may not have noticed yet.
    is_ending: bool,
}

impl Known {
    /// Whether the disk has something of it.
    fn is_staged(&self) -> bool {
        self.accepted > 0 && !self.finished
    }

    fn accepted(&self) -> &str {
        &self.content[..self.accepted]
    }
}

/// A version of the file.
struct Version {
    number: usize,
    content: String,
    mode: u32,
}

struct World {
    /// Unmounted before its directory is removed with the root.
    mount: Option<Mount>,
    server: Option<TestServer>,
    files: FileControllerClient<PlainConnection>,
    /// The open stream of each upload.
    streams: HashMap<usize, UploadStream>,
    uploads: HashMap<usize, Known>,
    /// The file in each of the folders.
    versions: [Option<Version>; 2],
    /// Which folder the link points to.
    link: usize,
    /// The version of each etag that was told.
    etags: HashMap<String, usize>,
    /// Counts contents, so that no two are the same.
    contents: usize,
}

impl World {
    async fn new(root: TempDir, mount: Option<Mount>) -> Self {
        for folder in FOLDERS {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        symlink(FOLDERS[0], root.path().join("link")).unwrap();
        let server = serve(root);
        Self {
            mount,
            files: connect(&server).await,
            server: Some(server),
            streams: HashMap::new(),
            uploads: HashMap::new(),
            versions: [None, None],
            link: 0,
            etags: HashMap::new(),
            contents: 0,
        }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Write(size) => {
                let text = self.new_content(size);
                assert_written(&self.write(&text, None).await.unwrap());
                self.commit(self.link, text);
            }
            Step::WriteWithin(deadline, size) => {
                let text = self.new_content(size);
                match self.write(&text, Some(deadline)).await {
                    Ok(status) => {
                        assert_written(&status);
                        self.commit(self.link, text);
                    }
                    failure => _ = assert_failure(failure, Code::DeadlineExceeded, "DEADLINE"),
                }
            }
            Step::WriteAfterCancelled(after, size) => {
                let cancelled = self.new_content(size);
                let _ = tokio::time::timeout(after, self.write(&cancelled, None)).await;
                let text = self.new_content(size / 10);
                assert_written(&self.write(&text, None).await.unwrap());
                self.commit(self.link, text);
            }
            Step::WriteWhileLinkMoves(size) => {
                let text = self.new_content(size);
                let mut files = self.files.clone();
                let writing = with_timeout(files.write(file(NAME, &text)));
                let (written, ()) = futures::join!(writing, async { self.move_link() });
                assert_written(written.unwrap().get_ref());
                let is_there = |&folder: &usize| self.read(folder).as_deref() == Some(&text);
                let folder = (0..2).find(is_there).expect("the text in a folder");
                self.commit(folder, text);
            }
            Step::Read => {
                let read = with_timeout(self.files.read(file(NAME, ""))).await;
                let read = read.unwrap().into_inner();
                match (&self.versions[self.link], read.failure) {
                    (Some(version), None) => assert!(read.text == version.content),
                    (None, Some(failure)) => assert_eq!(failure.reason, "NOT_FOUND"),
                    (_, failure) => panic!("{failure:?}"),
                }
            }
            Step::Upload(id, step) => self.apply_to_upload(id, step).await,
            Step::MoveLink => self.move_link(),
            Step::SetReadOnly(is_read_only) => self.set_read_only(is_read_only),
            Step::Restart => self.restart().await,
            Step::WriteBelowMount => self.write_below_mount().await,
        }
        self.check().await;
    }

    async fn apply_to_upload(&mut self, id: usize, step: UploadStep) {
        match step {
            UploadStep::Open => self.open(id).await,
            UploadStep::OpenAfterCancelled(after) => {
                let _ = tokio::time::timeout(after, self.try_open(id, None)).await;
                self.open(id).await;
            }
            UploadStep::OpenAfterDeadline(deadline) => {
                let opened = self.try_open(id, Some(deadline)).await;
                if opened.is_err() {
                    assert_failure(opened, Code::DeadlineExceeded, "DEADLINE");
                }
                self.open(id).await;
            }
            UploadStep::Chunk(length) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    let known = self.uploads.get_mut(&id).unwrap();
                    let end = SIZE.min(known.accepted + length);
                    if end > known.accepted {
                        let bytes = &known.content.as_bytes()[known.accepted..end];
                        stream.chunk(known.accepted, bytes).await;
                        stream.wait_persisted(end).await;
                        known.accepted = end;
                    }
                }
            }
            UploadStep::HalfClose => {
                if let Some(mut stream) = self.streams.remove(&id) {
                    stream.half_close();
                    stream.wait_persisted(self.uploads[&id].accepted).await;
                    assert_eq!(stream.next_answer().await.unwrap(), None);
                    if self.uploads[&id].accepted == 0 {
                        self.uploads.remove(&id);
                    }
                }
            }
            UploadStep::Cancel => {
                if self.streams.remove(&id).is_some() {
                    let known = self.uploads.get_mut(&id).unwrap();
                    known.is_ending = known.accepted == 0;
                }
            }
            UploadStep::Finish => {
                if let Some(mut stream) = self.streams.remove(&id) {
                    let accepted = self.uploads[&id].accepted().as_bytes();
                    stream.finish(accepted).await;
                    let info = stream.wait_committed().await;
                    assert_eq!(info.size, accepted.len() as u64);
                    self.finish(id);
                }
            }
            UploadStep::FinishAndCancel(after) => {
                if let Some(mut stream) = self.streams.remove(&id) {
                    stream.finish(self.uploads[&id].accepted().as_bytes()).await;
                    let _ = tokio::time::timeout(after, stream.wait_committed()).await;
                    drop(stream);
                    // The next open tells whether the upload is finished.
                    match self.try_open(id, None).await.unwrap() {
                        (State::Committed(_), _) => self.finish(id),
                        (State::Progress(_), _) => self.open(id).await,
                    }
                }
            }
            UploadStep::Abort => self.abort(id, None).await,
            UploadStep::AbortWithin(deadline) => self.abort(id, Some(deadline)).await,
        }
    }

    /// Opens an upload, and compares the answer with what is known.
    async fn open(&mut self, id: usize) {
        if !self.uploads.contains_key(&id) {
            let content = self.new_content(SIZE);
            let known = Known {
                content,
                ..Known::default()
            };
            self.uploads.insert(id, known);
        }
        let mut stream = UploadStream::open(&mut self.files, plan(id)).await;
        let state = stream.next_answer().await.unwrap().unwrap();
        let known = self.uploads.get_mut(&id).unwrap();
        known.is_ending = false;
        match state {
            State::Committed(info) => {
                assert!(known.finished);
                assert_eq!(info.size, known.accepted as u64);
                return;
            }
            State::Progress(progress) => {
                assert!(!known.finished);
                assert_eq!(progress.persisted_size, known.accepted as u64);
                let crc = crc32c(known.accepted().as_bytes());
                assert_eq!(progress.persisted_crc32c, crc);
            }
        }
        if let Some(mut older) = self.streams.insert(id, stream) {
            assert_failure(older.wait_end().await, Code::Aborted, "SUPERSEDED");
        }
    }

    /// Opens an upload in a stream that is cancelled when the answer is dropped.
    async fn try_open(
        &self,
        id: usize,
        deadline: Option<Duration>,
    ) -> Result<(State, tonic::Streaming<pb::WriteStreamResponse>), Status> {
        let step = Some(write_stream_request::Step::Open(plan(id)));
        let open = stream::once(async { WriteStreamRequest { step } });
        let mut request = Request::new(open.chain(stream::pending()));
        deadline.inspect(|&deadline| request.set_timeout(deadline));
        let mut files = self.files.clone();
        let answers = with_timeout(files.write_stream(request)).await?;
        let mut answers = answers.into_inner();
        let first = with_timeout(answers.message()).await?.expect("an answer");
        Ok((first.state.unwrap(), answers))
    }

    async fn abort(&mut self, id: usize, deadline: Option<Duration>) {
        let mut request = Request::new(AbortUploadRequest {
            filename: NAME.to_owned(),
            upload_id: plan(id).upload_id,
        });
        deadline.inspect(|&deadline| request.set_timeout(deadline));
        let aborted = with_timeout(self.files.abort_upload(request)).await;
        if deadline.is_some()
            && matches!(&aborted, Err(late) if late.code() == Code::DeadlineExceeded)
        {
            assert_failure(aborted, Code::DeadlineExceeded, "DEADLINE");
            return;
        }
        // Aborted or forgotten, the id begins another upload.
        let known = self.uploads.remove(&id);
        let stream = self.streams.remove(&id);
        let is_ending = known.as_ref().is_some_and(|known| known.is_ending);
        if stream.is_some() || known.is_some_and(|known| known.is_staged()) {
            aborted.unwrap();
        } else if !is_ending || aborted.is_err() {
            assert_failure(aborted, Code::NotFound, "NOT_FOUND");
        }
        if let Some(mut stream) = stream {
            assert_failure(stream.wait_end().await, Code::Aborted, "SUPERSEDED");
        }
    }

    async fn write(&self, text: &str, deadline: Option<Duration>) -> Result<pb::Status, Status> {
        let mut request = Request::new(file(NAME, text));
        deadline.inspect(|&deadline| request.set_timeout(deadline));
        let mut files = self.files.clone();
        Ok(with_timeout(files.write(request)).await?.into_inner())
    }

    async fn write_below_mount(&mut self) {
        let mount = self.mount.as_ref().unwrap().path();
        let mount = mount.file_name().unwrap().to_str().unwrap();
        let written = self
            .files
            .write(file(&format!("{mount}/a.txt"), "text"))
            .await;
        let failure = written.unwrap().into_inner().failure.expect("a failure");
        let precondition = Code::FailedPrecondition;
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (precondition.into(), "OTHER_FILESYSTEM")
        );
        let plan = OpenUpload {
            filename: format!("{mount}/new/a.txt"),
            ..plan(0)
        };
        let mut upload = UploadStream::open(&mut self.files, plan).await;
        assert_failure(upload.wait_end().await, precondition, "OTHER_FILESYSTEM");
        assert_eq!(
            fs::read_dir(self.mount.as_ref().unwrap().path())
                .unwrap()
                .count(),
            0
        );
    }

    /// Points the link to the other folder.
    fn move_link(&mut self) {
        self.link = 1 - self.link;
        symlink(FOLDERS[self.link], self.path("new link")).unwrap();
        fs::rename(self.path("new link"), self.path("link")).unwrap();
    }

    fn set_read_only(&mut self, is_read_only: bool) {
        let path = self.path(NAME);
        if let Some(version) = &mut self.versions[self.link] {
            version.mode = if is_read_only { 0o444 } else { 0o644 };
            fs::set_permissions(path, fs::Permissions::from_mode(version.mode)).unwrap();
        }
    }

    async fn restart(&mut self) {
        self.streams.clear();
        self.uploads
            .retain(|_, known| known.accepted > 0 || known.finished);
        let mut stopped = self.server.take().unwrap();
        stopped.stop();
        stopped.wait_stopped().await;
        let server = serve(stopped.into_root());
        self.files = connect(&server).await;
        self.server = Some(server);
    }

    /// Notes that an upload is finished and its file in place.
    fn finish(&mut self, id: usize) {
        let known = self.uploads.get_mut(&id).unwrap();
        known.finished = true;
        let content = known.accepted().to_owned();
        self.commit(self.link, content);
    }

    /// Notes a new version. It has the mode of the one before it.
    fn commit(&mut self, folder: usize, content: String) {
        self.contents += 1;
        let path = self.path(FOLDERS[folder]).join("a.txt");
        let mode = match &self.versions[folder] {
            Some(version) => version.mode,
            None => fs::metadata(path).unwrap().permissions().mode() & 0o7777,
        };
        let number = self.contents;
        self.versions[folder] = Some(Version {
            number,
            content,
            mode,
        });
    }

    /// Compares the disk with the model.
    async fn check(&mut self) {
        for (folder, version) in self.versions.iter().enumerate() {
            let Some(version) = version else {
                assert_eq!(self.read(folder), None);
                continue;
            };
            assert!(
                self.read(folder).as_ref() == Some(&version.content),
                "another content"
            );
            let path = self.path(FOLDERS[folder]).join("a.txt");
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, version.mode, "another mode");
        }
        let filename = NAME.to_owned();
        let found = with_timeout(self.files.stat(StatRequest { filename })).await;
        match &self.versions[self.link] {
            Some(version) => {
                let etag = found.unwrap().into_inner().etag;
                let told = self.etags.entry(etag.clone()).or_insert(version.number);
                assert_eq!(*told, version.number, "two versions have the etag {etag}");
            }
            None => _ = assert_failure(found, Code::NotFound, "NOT_FOUND"),
        }
        let staged = self
            .uploads
            .values()
            .filter(|known| known.is_staged())
            .count();
        for kind in ["data", "journal"] {
            let files = fs::read_dir(self.path(".muxs/uploads")).unwrap();
            let files = files.filter(|file| {
                let path = file.as_ref().unwrap().path();
                path.extension().is_some_and(|extension| extension == kind)
            });
            assert_eq!(files.count(), staged, "files of unfinished uploads, {kind}");
        }
    }

    fn read(&self, folder: usize) -> Option<String> {
        fs::read_to_string(self.path(FOLDERS[folder]).join("a.txt")).ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.server.as_ref().unwrap().path(name)
    }

    /// Returns a text that is in no other content, and none of whose parts is the same.
    fn new_content(&mut self, size: usize) -> String {
        self.contents += 1;
        let mut text = String::with_capacity(size + 32);
        let mut line = 0;
        while text.len() < size {
            writeln!(text, "{}, {line}", self.contents).unwrap();
            line += 1;
        }
        text.truncate(size);
        text
    }
}

#[track_caller]
fn assert_written(status: &pb::Status) {
    assert_eq!((status.code, &status.failure), (0, &None));
}

fn plan(id: usize) -> OpenUpload {
    OpenUpload {
        filename: NAME.to_owned(),
        upload_id: format!("upload-{id}"),
        if_etag: None,
        size: None,
    }
}

fn serve(root: TempDir) -> TestServer {
    let settings = Settings {
        checkpoint_bytes: 1,
        ..Settings::default()
    };
    TestServer::serve(root, settings, |_| {})
}

async fn connect(server: &TestServer) -> FileControllerClient<PlainConnection> {
    PlainConnection::files(server.address).await.unwrap()
}

/// Runs the steps on a new server.
fn run(root: TempDir, mount: Option<Mount>, steps: Vec<Step>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut world = World::new(root, mount).await;
        for step in steps {
            world.apply(step).await;
        }
    });
}

fn run_cases(cases: u32, step: BoxedStrategy<Step>, run: impl Fn(Vec<Step>)) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = |steps| {
        run(steps);
        Ok::<_, TestCaseError>(())
    };
    let result = runner.run(&prop::collection::vec(step, 1..50), run);
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn file_matches_the_model() {
    run_cases(24, step(), |steps| {
        run(tempfile::tempdir().unwrap(), None, steps)
    });
}

/// No two of the versions have the same time there.
#[test]
fn file_matches_the_model_where_times_are_whole_seconds() {
    if let Some(disk) = Mount::ext4_with_small_inodes() {
        run_cases(6, step(), |steps| {
            run(TempDir::new_in(disk.path()).unwrap(), None, steps)
        });
    }
}

#[test]
fn file_matches_the_model_beside_another_filesystem() {
    let probe = tempfile::tempdir().unwrap();
    if Mount::tmpfs_below(probe.path()).is_none() {
        return;
    }
    let step = prop_oneof![8 => step(), 1 => Just(Step::WriteBelowMount)].boxed();
    run_cases(6, step, |steps| {
        let root = tempfile::tempdir().unwrap();
        let mount = Mount::tmpfs_below(root.path());
        run(root, mount, steps);
    });
}
