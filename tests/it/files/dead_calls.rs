//! A Write that ended does nothing more: what its client was told is how it stays.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use muxs::pb::{self, StatRequest};
use tonic::{Code, Status};

use super::{MAX_TEXT, WRITTEN};
use crate::support::{
    Program, file,
    methods::{STAT, WRITE},
    raw_call::CallConnection,
    traced::{start_faulty, stop_traced},
    upload_stream::crc32c,
};

/// How many clients there are at a time, and how often. Where they are more than the threads that work on the
/// disk, some Writes wait for one.
const CROWDS: [(usize, usize); 2] = [(60, 10), (600, 1)];

/// A connection has at most 128 calls.
const LANES_PER_CONNECTION: usize = 90;

/// Each third sync of a thread takes long, so that some Writes are faster than those before them.
const SOME_ARE_SLOW: &str = "delay_enter=60ms:when=1+3";

const EARLIER: &str = "earlier";
const LATER: &str = "later";

/// How the earlier of two Writes ends, unless it is done before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Deadline,
    Cancel,
}

/// A server on a disk with slow syncs, and connections to it.
struct SlowServer {
    lanes: usize,
    program: Program,
    connections: Vec<CallConnection>,
    folder: tempfile::TempDir,
}

impl SlowServer {
    async fn start(lanes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
        let program = start_faulty(&root, &trace, "fsync,fdatasync", SOME_ARE_SLOW).await?;
        let count = lanes.div_ceil(LANES_PER_CONNECTION);
        let connections = (0..count).map(|_| CallConnection::open(program.address));
        Some(Self {
            lanes,
            connections: join_all(connections).await,
            program,
            folder,
        })
    }

    /// Runs a lane on each connection's share of them, all at once.
    async fn run<T>(&self, lane: impl AsyncFn(Lane) -> T) -> Vec<T> {
        let lanes = (0..self.lanes).map(|number| Lane {
            number,
            connection: self.connections[number % self.connections.len()].clone(),
        });
        join_all(lanes.map(|each| lane(each))).await
    }

    /// Returns the time that a Write typically takes beside all others.
    async fn measure(&self) -> Duration {
        let measured = self.run(async |lane| {
            let begun = Instant::now();
            let name = format!("measured-{}", lane.number);
            assert_eq!(lane.write(&name, EARLIER, None).await.unwrap(), WRITTEN);
            begun.elapsed()
        });
        let mut measured = measured.await;
        measured.sort_unstable();
        measured[measured.len() / 2]
    }

    /// Stops the server, so that nothing is left to be done later, and compares the files with what the
    /// clients were told.
    async fn stop_and_compare(self, told: &[(String, Option<String>)]) {
        drop(self.connections);
        stop_traced(self.program).await;
        let root = self.folder.path().join("root");
        let wrong = told.iter().filter(|(name, text)| {
            let content = fs::read_to_string(root.join(name)).ok();
            content != *text
        });
        let wrong: Vec<_> = wrong.map(|(name, _)| name).collect();
        assert!(
            wrong.is_empty(),
            "{} of {}: {wrong:?}",
            wrong.len(),
            told.len()
        );
    }
}

/// One client of many.
struct Lane {
    number: usize,
    connection: CallConnection,
}

impl Lane {
    async fn write(
        &self,
        name: &str,
        text: &str,
        deadline: Option<Duration>,
    ) -> Result<pb::Status, Status> {
        let request = file(name, text);
        let call = self.connection.begin_unary(WRITE, &request, deadline).await;
        call.response().await
    }

    /// A text that takes long in some lanes, and another that does not.
    fn text(&self, word: &str) -> String {
        let mut text = format!("{word} of {}", self.number);
        if self.number.is_multiple_of(50) && word == EARLIER {
            text.push_str(&"x".repeat(MAX_TEXT - 100));
        }
        text
    }
}

/// A time up to twice the typical one, which is another one for each name.
fn random_time(typical: Duration, name: &str) -> Duration {
    typical * (crc32c(name.as_bytes()) % 200) / 100
}

/// An earlier Write is ended, and a later one answered. The earlier one does not come back.
#[tokio::test]
async fn write_that_ended_never_replaces_a_later_one() {
    for (lanes, rounds) in CROWDS {
        let Some(server) = SlowServer::start(lanes).await else {
            return;
        };
        let typical = server.measure().await;
        let mut names = Vec::new();
        for round in 0..rounds {
            let written = server.run(async |lane| {
                let name = format!("{}-{round}", lane.number);
                // A connection with many cancelled calls is taken for an attack.
                let end = match (lane.number + round) % 16 {
                    0 => End::Cancel,
                    _ => End::Deadline,
                };
                write_twice(&lane, &name, end, random_time(typical, &name)).await;
                (name, Some(lane.text(LATER)))
            });
            names.extend(written.await);
        }
        server.stop_and_compare(&names).await;
    }
}

async fn write_twice(lane: &Lane, name: &str, end: End, after: Duration) {
    let earlier = lane.text(EARLIER);
    match end {
        End::Deadline => drop(lane.write(name, &earlier, Some(after)).await),
        End::Cancel => {
            let request = file(name, &earlier);
            let call = lane.connection.begin_unary(WRITE, &request, None).await;
            tokio::time::sleep(after).await;
            call.cancel();
        }
    }
    let later = lane.write(name, &lane.text(LATER), None).await;
    assert_eq!(later.unwrap(), WRITTEN, "{name}");
}

/// DEADLINE_EXCEEDED says that the text was not written and will not be, and an answer that it is there.
#[tokio::test]
async fn answer_of_a_write_with_a_deadline_is_how_it_stays() {
    for (lanes, rounds) in CROWDS {
        let Some(server) = SlowServer::start(lanes).await else {
            return;
        };
        let typical = server.measure().await;
        let mut answers = Vec::new();
        for round in 0..rounds {
            let answered = server.run(async |lane| {
                let name = format!("{}-{round}", lane.number);
                let written = write_once(&lane, &name, random_time(typical, &name)).await;
                (name, written)
            });
            answers.extend(answered.await);
        }
        let written = answers.iter().filter(|(_, text)| text.is_some()).count();
        let both = 1..answers.len();
        assert!(
            both.contains(&written),
            "{written} written, all of one kind"
        );
        server.stop_and_compare(&answers).await;
    }
}

/// Returns what the client is told to be there.
async fn write_once(lane: &Lane, name: &str, deadline: Duration) -> Option<String> {
    let text = lane.text(EARLIER);
    let written = match lane.write(name, &text, Some(deadline)).await {
        Ok(status) => {
            assert_eq!(status, WRITTEN, "{name}");
            Some(text)
        }
        Err(status) => {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            None
        }
    };
    assert_eq!(
        exists(lane, name).await,
        written.is_some(),
        "{name} after its answer"
    );
    written
}

/// Asks the server for a file.
async fn exists(lane: &Lane, name: &str) -> bool {
    let request = StatRequest {
        filename: name.to_owned(),
    };
    let call = lane.connection.begin_unary(STAT, &request, None).await;
    match call.response::<pb::FileInfo>().await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            false
        }
    }
}
