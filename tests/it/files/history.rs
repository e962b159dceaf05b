//! Clients that cancel calls and give them little time, on a server that is killed again and again: each file is a
//! register that can be linearized.
//!
//! A call without an answer takes effect once or never, but not after the server was killed, and not after a later
//! write of the same file on its connection was acknowledged. A call with an answer did what the answer says.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use muxs::pb::{
    Chunk, FileInfo, FinishUpload, OpenUpload, ReadStreamRequest, StatRequest, UploadProgress,
    WriteStreamRequest, file_controller_client::FileControllerClient, read_stream_response::Event,
    write_stream_request, write_stream_response::State,
};
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{MAX_TEXT, WRITTEN};
use crate::support::{
    file,
    linearizability::{Operation, Outcome, Step, Value, check},
    plain_connection::PlainConnection,
    restartable_server::RestartableServer,
    upload_stream::{chunk, crc32c},
    with_timeout,
};

const CLIENTS: usize = 8;
const NAMES: [&str; 3] = ["a.txt", "b.txt", "folder/c.txt"];
const KILL_INTERVAL: Duration = Duration::from_secs(2);

/// How long the clients go on, unless the environment says otherwise.
const SECONDS: u64 = 10;
const SECONDS_VARIABLE: &str = "MUXS_HISTORY_SECONDS";

type Files = FileControllerClient<PlainConnection>;

#[tokio::test]
async fn history_of_each_file_is_linearizable() {
    let seconds = env::var(SECONDS_VARIABLE).map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut server = RestartableServer::start().await;
    let (starts, started) = watch::channel(0);
    let world = Arc::new(World::new(server.address, started));
    let clients = (0..CLIENTS).map(|id| {
        let client = Client::new(id, Arc::clone(&world));
        tokio::task::spawn_blocking(move || client.run(until))
    });
    let mut clients = std::pin::pin!(try_join_all(clients));
    let mut kills = Vec::new();
    let mut records = loop {
        tokio::select! {
            records = &mut clients => break records.unwrap().concat(),
            () = tokio::time::sleep(KILL_INTERVAL) => {}
        }
        server.program.signal(Signal::KILL);
        server.program.wait_end().await;
        kills.push(world.tick());
        server.start_again().await;
        starts.send_modify(|start| *start += 1);
    };
    let last = Client::new(CLIENTS, Arc::clone(&world));
    let last = tokio::task::spawn_blocking(move || last.read_all());
    records.extend(last.await.unwrap());

    let counts = count(&records);
    println!("{} kills, {counts:#?}", kills.len());
    let etags = world.versions.lock().unwrap().etags.clone();
    let mut reports = std::mem::take(&mut *world.complaints.lock().unwrap());
    for (name, filename) in NAMES.iter().enumerate() {
        let history: Vec<_> = records
            .iter()
            .filter(|record| record.name == name)
            .filter_map(|record| record.operation(&kills, &etags))
            .collect();
        reports.extend(
            check(&history)
                .err()
                .map(|report| format!("{filename}: {report}")),
        );
    }
    assert!(reports.is_empty(), "{}", reports.join("\n"));
    assert!(!kills.is_empty());
    for outcome in ["Acknowledged", "Failed", "Unknown"] {
        let kind = format!("Write {outcome}");
        assert!(counts.contains_key(&kind), "no {kind}");
    }
    assert!(counts.contains_key("upload Acknowledged"));
}

/// Returns how often each kind of operation had each outcome.
fn count(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        let kind = record.note.split(' ').next().unwrap();
        *counts
            .entry(format!("{kind} {:?}", record.outcome))
            .or_default() += 1;
    }
    counts
}

/// What all clients share.
struct World {
    address: SocketAddr,
    /// Counts the begins and ends of all operations.
    clock: AtomicU64,
    /// The number of starts of the server.
    started: watch::Receiver<u32>,
    versions: Mutex<Versions>,
    /// The answers that the contract does not have here.
    complaints: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Versions {
    /// The version of each size: no two have the same.
    sizes: HashMap<usize, u64>,
    /// The version of each etag that a client was told.
    etags: HashMap<String, u64>,
}

impl World {
    fn new(address: SocketAddr, started: watch::Receiver<u32>) -> Self {
        Self {
            address,
            clock: AtomicU64::new(0),
            started,
            versions: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Keeps an answer for the report. Its operation may have taken effect.
    fn complain(&self, note: &str, answer: &impl std::fmt::Debug) -> Outcome {
        let complaint = format!("{note}: {answer:?}");
        self.complaints.lock().unwrap().push(complaint);
        Outcome::Unknown
    }

    /// Returns a new version of a file, with a size near to `size`.
    fn add_version(&self, mut size: usize) -> (u64, String) {
        let mut versions = self.versions.lock().unwrap();
        while versions.sizes.contains_key(&size) {
            size = size % MAX_TEXT + 1;
        }
        let version = versions.sizes.len() as u64;
        versions.sizes.insert(size, version);
        (version, text(version, size))
    }

    /// Returns the version with that content.
    fn version_of(&self, content: &[u8]) -> u64 {
        let version = self.version_of_size(content.len());
        let is_whole = content == text(version, content.len()).as_bytes();
        assert!(is_whole, "a mixture of #{version} and others");
        version
    }

    fn version_of_size(&self, size: usize) -> u64 {
        let versions = self.versions.lock().unwrap();
        let version = versions.sizes.get(&size);
        *version.unwrap_or_else(|| panic!("a size that nobody wrote: {size}"))
    }

    /// Returns the version that the server described.
    fn version_of_info(&self, info: &FileInfo) -> u64 {
        let version = self.version_of_size(info.size as usize);
        let mut versions = self.versions.lock().unwrap();
        let told = *versions.etags.entry(info.etag.clone()).or_insert(version);
        assert_eq!(told, version, "two versions have the etag {}", info.etag);
        version
    }
}

/// The content of a version: its number, again and again.
fn text(version: u64, size: usize) -> String {
    let mut text = format!("{version:07}\n").repeat(size / 8 + 1);
    text.truncate(size);
    text
}

/// What is known of an operation.
#[derive(Clone)]
struct Record {
    client: usize,
    name: usize,
    begin: u64,
    end: u64,
    /// A moment at which the connection of the call was there.
    connected: u64,
    step: RecordedStep,
    outcome: Outcome,
    note: String,
}

#[derive(Clone)]
enum RecordedStep {
    Known(Step),
    /// A read of the version with this etag.
    Etag(String),
}

impl Record {
    fn operation(&self, kills: &[u64], etags: &HashMap<String, u64>) -> Option<Operation> {
        let step = match &self.step {
            RecordedStep::Known(step) => *step,
            // An etag that belongs to no known version says nothing.
            RecordedStep::Etag(etag) => Step::Read(Some(*etags.get(etag)?)),
        };
        let killed = kills.iter().copied().find(|&kill| kill > self.connected);
        let end = match self.outcome {
            Outcome::Unknown => killed.map_or(self.end, |killed| self.end.min(killed)),
            Outcome::Acknowledged | Outcome::Failed => self.end,
        };
        Some(Operation {
            client: self.client,
            begin: self.begin,
            end: end.max(self.begin),
            step,
            outcome: self.outcome,
            note: self.note.clone(),
        })
    }
}

/// How a call is to be ended early.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    None,
    /// By a deadline that only the server knows.
    Deadline(Duration),
    /// By a reset.
    Cancel(Duration),
}

/// Why a call has no result.
enum Ended {
    /// The server told that the deadline was over.
    Deadline,
    /// The server refused it.
    Refused(Status),
    Cancelled,
    /// The connection is gone.
    Lost,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        match info.is_some_and(|info| info.domain == "muxs") {
            true if status.code() == Code::DeadlineExceeded => Self::Deadline,
            true => Self::Refused(status),
            false => Self::Lost,
        }
    }
}

/// An upload over one or more streams.
struct Upload {
    id: String,
    name: usize,
    version: u64,
    text: String,
    if_etag: Option<String>,
    /// The version that it may replace.
    from: Option<Value>,
    begin: u64,
    /// Whether the last stream has sent `finish`.
    has_sent_finish: bool,
    /// Whether a stream that did not tell its end may have received `finish`.
    may_be_finished: bool,
    /// A moment at which the connection of that stream was there.
    connected: u64,
    note: String,
}

impl Upload {
    fn step(&self) -> Step {
        match self.from {
            Some(from) => Step::Swap {
                from,
                to: self.version,
            },
            None => Step::Write(self.version),
        }
    }

    /// Continues the upload in a stream. Returns the file, or `None` after a pause.
    async fn send(
        &mut self,
        mut files: Files,
        deadline: Option<Duration>,
        with_finish: bool,
    ) -> Result<Option<FileInfo>, Status> {
        // The capacity suffices for all steps.
        let (steps, outgoing) = mpsc::channel(64);
        let send = |step| {
            steps
                .try_send(WriteStreamRequest { step: Some(step) })
                .unwrap()
        };
        send(write_stream_request::Step::Open(OpenUpload {
            filename: NAMES[self.name].to_owned(),
            upload_id: self.id.clone(),
            if_etag: self.if_etag.clone(),
            size: Some(self.text.len() as u64),
        }));
        let mut request = Request::new(ReceiverStream::new(outgoing));
        deadline.inspect(|&deadline| request.set_timeout(deadline));
        let mut answers = files.write_stream(request).await?.into_inner();
        let first = answers.message().await?.expect("an answer to open");
        let persisted = match first.state.unwrap() {
            State::Progress(progress) => self.check_progress(&progress),
            State::Committed(info) => return Ok(Some(info)),
        };
        // The streams before can do nothing more.
        self.may_be_finished = false;
        for (k, piece) in self.text.as_bytes()[persisted..]
            .chunks(256 * 1024)
            .enumerate()
        {
            let chunk: Chunk = chunk(persisted + k * 256 * 1024, piece);
            send(write_stream_request::Step::Chunk(chunk));
        }
        if with_finish {
            self.has_sent_finish = true;
            send(write_stream_request::Step::Finish(FinishUpload {
                size: self.text.len() as u64,
                crc32c: Some(crc32c(self.text.as_bytes())),
            }));
        }
        drop(steps);
        while let Some(answer) = answers.message().await? {
            match answer.state.unwrap() {
                State::Progress(progress) => _ = self.check_progress(&progress),
                State::Committed(info) => return Ok(Some(info)),
            }
        }
        assert!(!with_finish, "a finished upload paused");
        Ok(None)
    }

    fn check_progress(&self, progress: &UploadProgress) -> usize {
        let persisted = progress.persisted_size as usize;
        let durable = &self.text.as_bytes()[..persisted];
        assert_eq!(progress.persisted_crc32c, crc32c(durable));
        persisted
    }
}

struct Client {
    id: usize,
    world: Arc<World>,
    random: u64,
    connection: Option<Connection>,
    /// The last etag of each file, and its version.
    etags: [Option<(String, u64)>; NAMES.len()],
    interrupted: Option<Upload>,
    records: Vec<Record>,
    /// The cancelled operations of this connection: they end with a later one.
    cancelled: Vec<usize>,
}

#[derive(Clone)]
struct Connection {
    files: Files,
    /// The start of the server that it belongs to.
    start: u32,
    /// A moment at which it was there.
    connected: u64,
}

impl Client {
    fn new(id: usize, world: Arc<World>) -> Self {
        Self {
            id,
            world,
            random: 0x9e37_79b9_7f4a_7c15 ^ (id as u64 + 1),
            connection: None,
            etags: Default::default(),
            interrupted: None,
            records: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    /// Runs random operations on a runtime of their own: other clients do not delay a reset.
    fn run(mut self, until: Instant) -> Vec<Record> {
        in_runtime(async {
            while Instant::now() < until {
                self.run_one().await;
            }
            if let Some(upload) = self.interrupted.take() {
                self.record_end(upload);
            }
            self.records
        })
    }

    fn read_all(mut self) -> Vec<Record> {
        in_runtime(async {
            for name in 0..NAMES.len() {
                self.read(name, Interruption::None).await;
            }
            self.records
        })
    }

    async fn run_one(&mut self) {
        let name = self.below(NAMES.len() as u64) as usize;
        let interruption = match self.below(6) {
            0 => Interruption::Deadline(self.duration()),
            1 => Interruption::Cancel(self.duration()),
            _ => Interruption::None,
        };
        match self.below(10) {
            0..=2 => self.write(name, interruption).await,
            3 | 4 => self.read(name, interruption).await,
            5 => self.download(name, interruption).await,
            6 => self.stat(name, interruption).await,
            _ => self.upload(name, interruption).await,
        }
    }

    async fn write(&mut self, name: usize, interruption: Interruption) {
        let (version, text) = self.new_version();
        let note = format!("Write of {} bytes, {interruption:?}", text.len());
        let begin = self.begin().await;
        let request = file(NAMES[name], &text);
        let result = self
            .call(interruption, |mut files, deadline| async move {
                files.write(with_deadline(request, deadline)).await
            })
            .await;
        let outcome = match &result {
            Ok(status) if *status.get_ref() == WRITTEN => Outcome::Acknowledged,
            // A later call with a precondition came first.
            Ok(status) if reason(status.get_ref()) == "SUPERSEDED" => Outcome::Failed,
            Ok(status) => self.world.complain(&note, status),
            Err(Ended::Refused(status)) if status.code() != Code::ResourceExhausted => {
                self.world.complain(&note, status)
            }
            Err(Ended::Cancelled | Ended::Lost) => Outcome::Unknown,
            Err(Ended::Deadline | Ended::Refused(_)) => Outcome::Failed,
        };
        let k = self.record(name, begin, Step::Write(version), outcome, note);
        self.settle(k, matches!(result, Err(Ended::Cancelled)));
    }

    async fn read(&mut self, name: usize, interruption: Interruption) {
        let begin = self.begin().await;
        let request = file(NAMES[name], "");
        let result = self
            .call(interruption, |mut files, deadline| async move {
                files.read(with_deadline(request, deadline)).await
            })
            .await;
        if let Some(Some(content)) = found(result) {
            let content = content.into_inner();
            let value = match &content.failure {
                None => Some(self.world.version_of(content.text.as_bytes())),
                Some(failure) if failure.code == Code::NotFound as i32 => None,
                Some(failure) => panic!("{failure:?}"),
            };
            self.record_read(name, begin, value, "Read");
        }
    }

    async fn stat(&mut self, name: usize, interruption: Interruption) {
        let begin = self.begin().await;
        let filename = NAMES[name].to_owned();
        let result = self
            .call(interruption, |mut files, deadline| async move {
                files
                    .stat(with_deadline(StatRequest { filename }, deadline))
                    .await
            })
            .await;
        if let Some(found) = found(result) {
            let info = found.map(tonic::Response::into_inner);
            self.record_info(name, begin, info, "Stat");
        }
    }

    async fn download(&mut self, name: usize, interruption: Interruption) {
        let begin = self.begin().await;
        let request = ReadStreamRequest {
            filename: NAMES[name].to_owned(),
            ..Default::default()
        };
        let result = self
            .call(interruption, |files, deadline| {
                download(files, with_deadline(request, deadline))
            })
            .await;
        if let Some(found) = found(result) {
            let info = found.map(|(info, content)| {
                assert_eq!(
                    self.world.version_of(&content),
                    self.world.version_of_info(&info)
                );
                info
            });
            self.record_info(name, begin, info, "ReadStream");
        }
    }

    /// Begins an upload, or continues one that was interrupted.
    async fn upload(&mut self, name: usize, interruption: Interruption) {
        let mut upload = match self.interrupted.take() {
            Some(upload) => upload,
            None => self.new_upload(name),
        };
        let begin = self.begin().await;
        if upload.begin == u64::MAX {
            upload.begin = begin;
        }
        upload.note += &format!(", {interruption:?}");
        let with_finish = self.below(8) > 0;
        let connected = self.connection.as_ref().unwrap().connected;
        upload.has_sent_finish = false;
        let stream = &mut upload;
        let result = self
            .call(interruption, |files, deadline| {
                stream.send(files, deadline, with_finish)
            })
            .await;
        // What a stream received whose deadline was over has no effect.
        if upload.has_sent_finish && !matches!(result, Err(Ended::Deadline)) {
            upload.may_be_finished = true;
            upload.connected = connected;
        }
        match result {
            Ok(Some(info)) => {
                assert_eq!(self.world.version_of_info(&info), upload.version);
                assert!(
                    info.crc32c
                        .is_none_or(|crc| crc == crc32c(upload.text.as_bytes()))
                );
                let name = upload.name;
                self.etags[name] = Some((info.etag, upload.version));
                let step = upload.step();
                let acknowledged = Outcome::Acknowledged;
                let k = self.record(name, upload.begin, step, acknowledged, upload.note);
                self.settle(k, false);
            }
            Ok(None) => self.interrupted = Some(upload),
            Err(Ended::Refused(status)) => self.record_refused(upload, begin, &status),
            Err(_) if self.below(2) == 0 => self.interrupted = Some(upload),
            Err(ended) => {
                let k = self.record_end(upload);
                self.settle(k, matches!(ended, Ended::Cancelled));
            }
        }
    }

    fn new_upload(&mut self, name: usize) -> Upload {
        let (version, text) = self.new_version();
        let (if_etag, from) = match (self.below(8), &self.etags[name]) {
            (0, _) => (Some(String::new()), Some(None)),
            (1..=3, Some((etag, version))) => (Some(etag.clone()), Some(Some(*version))),
            _ => (None, None),
        };
        Upload {
            id: format!("{version}"),
            name,
            note: format!("upload of {} bytes", text.len()),
            version,
            text,
            if_etag,
            from,
            begin: u64::MAX,
            has_sent_finish: false,
            may_be_finished: false,
            connected: 0,
        }
    }

    /// Records an upload that the server refused, and the version that it told instead.
    fn record_refused(&mut self, upload: Upload, begin: u64, status: &Status) {
        let info = status.get_details_error_info().unwrap();
        let found = match (info.reason.as_str(), info.metadata.get("etag")) {
            ("ETAG_MISMATCH", None) => Some(RecordedStep::Known(Step::Read(None))),
            ("ETAG_MISMATCH" | "EXISTS", Some(etag)) if upload.if_etag.as_ref() != Some(etag) => {
                Some(RecordedStep::Etag(etag.clone()))
            }
            ("EXISTS" | "BUSY" | "SUPERSEDED", _) => None,
            _ => {
                self.world.complain(&upload.note, status);
                self.record_end(upload);
                return;
            }
        };
        let (name, version) = (upload.name, upload.version);
        let note = format!("{}, {}", upload.note, info.reason);
        self.record(name, upload.begin, upload.step(), Outcome::Failed, note);
        if let Some(found) = found {
            let note = format!("found by the upload of #{version}");
            let k = self.record(name, begin, Step::Read(None), Outcome::Acknowledged, note);
            self.records[k].step = found;
        }
    }

    /// Records an upload that is given up.
    fn record_end(&mut self, upload: Upload) -> usize {
        let outcome = match upload.may_be_finished {
            true => Outcome::Unknown,
            false => Outcome::Failed,
        };
        let k = self.record(
            upload.name,
            upload.begin,
            upload.step(),
            outcome,
            upload.note,
        );
        self.records[k].connected = upload.connected;
        k
    }

    fn record_info(&mut self, name: usize, begin: u64, info: Option<FileInfo>, note: &str) {
        let version = info.as_ref().map(|info| self.world.version_of_info(info));
        self.etags[name] = info.map(|info| info.etag).zip(version);
        self.record_read(name, begin, version, note);
    }

    fn record_read(&mut self, name: usize, begin: u64, value: Value, note: &str) {
        self.record(
            name,
            begin,
            Step::Read(value),
            Outcome::Acknowledged,
            note.to_owned(),
        );
    }

    /// Records an operation that ends now, if its end is known.
    fn record(
        &mut self,
        name: usize,
        begin: u64,
        step: Step,
        outcome: Outcome,
        note: String,
    ) -> usize {
        let now = self.world.tick();
        self.records.push(Record {
            client: self.id,
            name,
            begin,
            end: match outcome {
                Outcome::Unknown => u64::MAX,
                Outcome::Acknowledged | Outcome::Failed => now,
            },
            connected: self
                .connection
                .as_ref()
                .map_or(begin, |connection| connection.connected),
            step: RecordedStep::Known(step),
            outcome,
            note,
        });
        self.records.len() - 1
    }

    /// An acknowledged write ends the ones that were cancelled before it began.
    fn settle(&mut self, k: usize, is_cancelled: bool) {
        let (name, outcome) = (self.records[k].name, self.records[k].outcome);
        let end = self.records[k].end;
        if outcome == Outcome::Acknowledged {
            let records = &mut self.records;
            self.cancelled.retain(|&cancelled| {
                let is_settled = records[cancelled].name == name;
                if is_settled {
                    records[cancelled].end = end;
                }
                !is_settled
            });
        } else if outcome == Outcome::Unknown && is_cancelled {
            self.cancelled.push(k);
        }
    }

    /// Connects, if necessary, and returns the moment after it.
    async fn begin(&mut self) -> u64 {
        let mut started = self.world.started.clone();
        while self.connection.is_none() {
            let start = *started.borrow_and_update();
            match PlainConnection::files(self.world.address).await {
                Ok(files) => {
                    let files = files.max_decoding_message_size(2 * MAX_TEXT);
                    let connected = self.world.tick();
                    self.connection = Some(Connection {
                        files,
                        start,
                        connected,
                    });
                }
                Err(_) => self.wait_started(start).await,
            }
        }
        self.world.tick()
    }

    /// Waits for a start after `start`.
    async fn wait_started(&self, start: u32) {
        let mut started = self.world.started.clone();
        // The sender is gone when the server is not started again.
        let _ = with_timeout(started.wait_for(|&now| now > start)).await;
    }

    async fn call<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        interruption: Interruption,
        call: impl FnOnce(Files, Option<Duration>) -> F,
    ) -> Result<T, Ended> {
        let Connection { files, start, .. } = self.connection.clone().expect("a connection");
        let result = match interruption {
            Interruption::None => with_timeout(call(files, None)).await,
            Interruption::Deadline(deadline) => with_timeout(call(files, Some(deadline))).await,
            Interruption::Cancel(after) => {
                match tokio::time::timeout(after, call(files, None)).await {
                    Ok(result) => result,
                    Err(_) => return Err(Ended::Cancelled),
                }
            }
        };
        let result = result.map_err(Ended::from);
        if matches!(result, Err(Ended::Lost)) {
            self.connection = None;
            self.cancelled.clear();
            self.wait_started(start).await;
        }
        result
    }

    fn new_version(&mut self) -> (u64, String) {
        let size = match self.below(10) {
            0..=5 => 8 + self.below(2000),
            6..=8 => self.below(64 * 1024),
            _ => self.below(MAX_TEXT as u64),
        };
        self.world.add_version(size.max(8) as usize)
    }

    /// Returns 50 µs to 200 ms; each length is as likely as its double.
    fn duration(&mut self) -> Duration {
        let doublings = self.below(12) as u32;
        Duration::from_micros(50 << doublings) + Duration::from_micros(self.below(50 << doublings))
    }

    /// Returns a pseudo-random number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

fn with_deadline<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    deadline.inspect(|&deadline| request.set_timeout(deadline));
    request
}

fn reason(status: &muxs::pb::Status) -> &str {
    status
        .failure
        .as_ref()
        .map_or("", |failure| &failure.reason)
}

/// Returns the file that was found, `Some(None)` if there is none, and nothing if the call was interrupted.
fn found<T>(result: Result<T, Ended>) -> Option<Option<T>> {
    match result {
        Ok(found) => Some(Some(found)),
        Err(Ended::Refused(status)) => match status.code() {
            Code::NotFound => Some(None),
            Code::ResourceExhausted => None,
            _ => panic!("{status:?}"),
        },
        Err(Ended::Deadline | Ended::Cancelled | Ended::Lost) => None,
    }
}

async fn download(
    mut files: Files,
    request: Request<ReadStreamRequest>,
) -> Result<(FileInfo, Vec<u8>), Status> {
    let mut events = files.read_stream(request).await?.into_inner();
    let mut info = None;
    let mut content = Vec::new();
    while let Some(event) = events.message().await? {
        match event.event.unwrap() {
            Event::Info(opened) => info = Some(opened),
            Event::Chunk(chunk) => content.extend_from_slice(&chunk.data),
        }
    }
    Ok((info.expect("info comes first"), content))
}
