//! Calls whose handlers pass a commit point before, at or after the end of their time.

use parking_lot::Mutex;
use tokio::time::sleep;

use super::*;
use crate::{
    commit_point::{CallEnded, CommitPoint},
    server::metrics::Limit,
};

const MS: Duration = Duration::from_millis(1);

/// The time for a call to answer that has passed its commit point.
const GRACE: Duration = Duration::from_secs(10);

/// Longer than any call.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A part of the message of a call that has passed its commit point and did not answer in time.
const MAY_HAVE_HAD_EFFECT: &str = "may have taken effect";

/// Handlers whose work goes on when they are dropped, like that of a blocking thread.
#[derive(Clone)]
struct Committing {
    passes_after: Duration,
    answers_after: Duration,
    work: TaskTracker,
    passed: Arc<Mutex<Option<Result<(), CallEnded>>>>,
}

impl Committing {
    fn new(passes_after: Duration, answers_after: Duration) -> Self {
        Self {
            passes_after,
            answers_after,
            work: TaskTracker::new(),
            passed: Arc::default(),
        }
    }

    /// The work of a call, and the reply to it.
    async fn commit(self, point: Option<CommitPoint>) -> Result<HelloReply, Status> {
        let point = point.ok_or_else(|| Status::internal("there is no commit point"))?;
        let Self { work, passed, .. } = self;
        let work = work.spawn(async move {
            sleep(self.passes_after).await;
            *passed.lock() = Some(point.pass());
            sleep(self.answers_after).await;
        });
        work.await.unwrap();
        Ok(reply("done"))
    }

    /// Waits until the work has passed the point, or could not.
    async fn passed(&self) -> Result<(), CallEnded> {
        self.work.close();
        self.work.wait().await;
        self.passed.lock().unwrap()
    }
}

fn reply(message: &str) -> HelloReply {
    HelloReply {
        message: message.to_owned(),
    }
}

fn point<T>(request: &tonic::Request<T>) -> Option<CommitPoint> {
    request.extensions().get().cloned()
}

#[tonic::async_trait]
impl Greeter for Committing {
    async fn say_hello(
        &self,
        request: tonic::Request<HelloRequest>,
    ) -> Result<Answer<HelloReply>, Status> {
        let done = self.clone().commit(point(&request)).await?;
        Ok(Answer::new(done))
    }

    /// A method without the policy.
    async fn square(&self, request: tonic::Request<Number>) -> Result<Answer<Number>, Status> {
        assert!(point(&request).is_none());
        Ok(Answer::new(request.into_inner()))
    }

    type LotsOfRepliesStream = Replies;

    /// Replies before the work and after it. The name `endless` gets a reply every second then.
    async fn lots_of_replies(
        &self,
        request: tonic::Request<HelloRequest>,
    ) -> Result<Answer<Replies>, Status> {
        let done = self.clone().commit(point(&request));
        let name = request.into_inner().name;
        let replies = async_stream::stream! {
            yield Ok(reply("begun"));
            yield done.await;
            if name == "endless" {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    yield Ok(reply("more"));
                }
            }
        };
        Ok(Answer::new(Box::pin(replies)))
    }

    /// Reads the requests after the work.
    async fn lots_of_greetings(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<Answer<HelloReply>, Status> {
        let done = self.clone().commit(point(&request)).await?;
        let mut requests = request.into_inner();
        while requests.message().await?.is_some() {}
        Ok(Answer::new(done))
    }

    type BidiHelloStream = Replies;

    /// Reads the requests after the work.
    async fn bidi_hello(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<Answer<Replies>, Status> {
        let done = self.clone().commit(point(&request));
        let replies = async_stream::stream! {
            let done = done.await;
            let mut requests = request.into_inner();
            while let Some(request) = requests.next().await {
                if let Err(status) = request {
                    yield Err(status);
                }
            }
            yield done;
        };
        Ok(Answer::new(Box::pin(replies)))
    }
}

async fn serve(handlers: &Committing, limits: Limits) -> Pipe {
    let commits = |path: &str| (path.to_owned(), MethodPolicy::default().commits());
    let policies = SHAPES.map(commits).into();
    let methods = Methods::new(&[pb::FILE_DESCRIPTOR_SET], &policies).unwrap();
    Pipe::serving(handlers.clone(), methods, limits, 65_535).await
}

/// Begins a call that ends after [`TIME`].
async fn begin(pipe: &mut Pipe, path: &str, name: &str) -> RawCall {
    let mut call = pipe.call(path, &[("grpc-timeout", "1234m")]).await;
    call.say(&hello(name));
    // The handlers of methods with one request are called when it ends.
    if [SAY_HELLO, LOTS_OF_REPLIES].contains(&path) {
        call.close();
    }
    call
}

#[track_caller]
fn assert_soon(begin: Instant, time: Duration, path: &str) {
    let late = begin.elapsed().checked_sub(time).expect("not early");
    assert!(late < 5 * MS, "{path}: {late:?} late");
}

#[tokio::test(start_paused = true)]
async fn call_that_passes_in_time_is_answered_after_its_deadline() {
    let answers_after = Duration::from_secs(3);
    for path in SHAPES {
        let handlers = Committing::new(TIME - 10 * MS, answers_after);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let begun = Instant::now();
        let mut call = begin(&mut pipe, path, "you").await;
        if [LOTS_OF_GREETINGS, BIDI_HELLO].contains(&path) {
            call.close();
        }
        let ended = call.ended().await.unwrap();
        assert_eq!(ended.status.unwrap().code(), Code::Ok, "{path}");
        assert!(ended.bytes.ends_with(b"done"), "{path}");
        assert_soon(begun, TIME - 10 * MS + answers_after, path);
        assert_eq!(handlers.passed().await, Ok(()), "{path}");
        pipe.ended().await;
        assert_eq!(pipe.ended_with(path, Code::Ok), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_passed_and_does_not_answer_ends_after_the_grace() {
    for path in SHAPES {
        let handlers = Committing::new(TIME / 2, NEVER);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let begun = Instant::now();
        let mut call = begin(&mut pipe, path, "you").await;
        let ended = call.ended().await.unwrap();
        ended.assert(Code::DeadlineExceeded, "DEADLINE");
        let status = ended.status.unwrap();
        assert!(status.message().contains(MAY_HAVE_HAD_EFFECT), "{status:?}");
        assert_soon(begun, TIME + GRACE, path);
        let sent = if path == LOTS_OF_REPLIES { 5 + 7 } else { 0 };
        assert_eq!(ended.bytes.len(), sent, "{path}: the reply before the work");
        pipe.ended().await;
        assert_eq!(pipe.ended_with(path, Code::DeadlineExceeded), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn call_does_not_pass_after_its_deadline() {
    for path in SHAPES {
        let handlers = Committing::new(TIME + 10 * MS, MS);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let begun = Instant::now();
        let mut call = begin(&mut pipe, path, "you").await;
        let ended = call.ended().await.unwrap();
        ended.assert(Code::DeadlineExceeded, "DEADLINE");
        let status = ended.status.unwrap();
        let may_have = status.message().contains(MAY_HAVE_HAD_EFFECT);
        assert!(!may_have, "{status:?}");
        assert_soon(begun, TIME, path);
        assert_eq!(handlers.passed().await, Err(CallEnded), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_does_not_pass_after_its_reset() {
    for path in SHAPES {
        let handlers = Committing::new(TIME / 2, MS);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let mut call = begin(&mut pipe, path, "you").await;
        settle().await;
        call.requests.send_reset(Reason::CANCEL);
        pipe.ended().await;
        assert_eq!(handlers.passed().await, Err(CallEnded), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_does_not_pass_after_its_connection() {
    for path in SHAPES {
        let handlers = Committing::new(TIME / 2, MS);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let call = begin(&mut pipe, path, "you").await;
        settle().await;
        let Pipe { client, calls, .. } = pipe;
        drop((call, client));
        calls.close();
        calls.wait().await;
        assert_eq!(handlers.passed().await, Err(CallEnded), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn request_of_a_call_that_passed_stays_open() {
    for path in [LOTS_OF_GREETINGS, BIDI_HELLO] {
        let handlers = Committing::new(TIME / 2, MS);
        let mut pipe = serve(&handlers, Limits::default()).await;
        let mut call = begin(&mut pipe, path, "you").await;
        sleep(TIME + GRACE / 2).await;
        call.say(&hello("you"));
        call.close();
        let ended = call.ended().await.unwrap();
        assert_eq!(ended.status.unwrap().code(), Code::Ok, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn grace_bounds_an_endless_response() {
    let handlers = Committing::new(TIME / 2, MS);
    let mut pipe = serve(&handlers, Limits::default()).await;
    let begun = Instant::now();
    let mut call = begin(&mut pipe, LOTS_OF_REPLIES, "endless").await;
    let ended = call.ended().await.unwrap();
    ended.assert(Code::DeadlineExceeded, "DEADLINE");
    assert_soon(begun, TIME + GRACE, LOTS_OF_REPLIES);
    let more = ended.bytes.windows(4).filter(|it| it == b"more").count();
    assert_eq!(more, 10, "those of the grace");
}

/// A deadline of the server, so that the limit counts the calls it ends.
#[tokio::test(start_paused = true)]
async fn limit_does_not_count_calls_that_are_answered_in_the_grace() {
    let limits = Limits {
        max_deadline: Some(TIME),
        ..Limits::default()
    };
    for (answers_after, code, hits) in
        [(GRACE / 2, Code::Ok, 0), (NEVER, Code::DeadlineExceeded, 1)]
    {
        let handlers = Committing::new(TIME / 2, answers_after);
        let mut pipe = serve(&handlers, limits.clone()).await;
        let mut call = pipe.call(SAY_HELLO, &[]).await;
        call.say(&hello("you"));
        call.close();
        assert_eq!(call.ended().await.unwrap().status.unwrap().code(), code);
        assert_eq!(pipe.hits.get(Limit::MaxDeadline), hits);
    }
}

#[tokio::test(start_paused = true)]
async fn method_without_the_policy_has_no_commit_point() {
    let mut pipe = serve(&Committing::new(MS, MS), Limits::default()).await;
    let mut call = pipe.call(SQUARE, &[]).await;
    call.say(&Number { value: 2.0 });
    call.close();
    let ended = call.ended().await.unwrap();
    assert_eq!(ended.status.unwrap().code(), Code::Ok);
}
