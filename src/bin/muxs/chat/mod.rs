//! `muxs chat`: a conversation over one BidiHello call.

mod editor;
mod ending;
mod pipe;
mod terminal;

use std::{
    future::pending,
    io::{self, IsTerminal},
    time::Duration,
};

use muxs::{
    client::{Error, TokenError},
    pb::{HelloRequest, greeter_client::GreeterClient},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use self::ending::ChatError;
pub(crate) use self::ending::Ending;
use crate::{
    connection::Connection,
    failure::{Failure, Job, Task, TokenUse},
};

/// Names read ahead of the call. Few, so that a long input waits in the pipe and not in memory.
const NAMES_AHEAD: usize = 16;

/// The longest that the chat waits for the first report of the server's health.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(connection: &Connection) -> Result<Ending, Failure> {
    let mut greeter = GreeterClient::new(connection.authorized()?);
    // One call: names go in at one end, replies come out at the other, each at its own pace.
    let (names, outgoing) = mpsc::channel(NAMES_AHEAD);
    let requests = ReceiverStream::new(outgoing).map(|name| HelloRequest {
        name,
        ..Default::default()
    });
    let explain = |status| explain(status, connection.token_use);
    // The watch first: it cannot begin once the server stops.
    let health = watch_health(connection.channel());
    let (replies, health) = tokio::join!(greeter.bidi_hello(requests), health);
    let replies = replies.map_err(explain)?.into_inner();
    let stopping = server_stops(health);
    let ended = match io::stdin().is_terminal() && io::stdout().is_terminal() {
        true => terminal::converse(names, replies, stopping).await,
        false => pipe::converse(names, replies, stopping)
            .await
            .map(|()| Ending::Complete),
    };
    ended.map_err(|error| match error {
        ChatError::Call(status) => explain(status),
        ChatError::Io(operation, error) => Failure::local(format!("cannot {operation}: {error}")),
    })
}

fn explain(status: Status, token_use: TokenUse) -> Failure {
    use std::error::Error as _;

    let causes = || std::iter::successors(status.source(), |&error| error.source());
    // The call was not made.
    if causes().any(|cause| cause.is::<TokenError>()) {
        let texts: Vec<_> = causes().map(ToString::to_string).collect();
        return Failure::local(texts.join(": "));
    }
    let task = Task {
        job: Job::Chat,
        remote: "",
        token_use,
    };
    task.explain(&Error::from(status))
}

/// Watches the health of the server, `None` if it does not report that it serves.
async fn watch_health(channel: Channel) -> Option<Streaming<HealthCheckResponse>> {
    let watch = async {
        let mut health = HealthClient::new(channel);
        let watched = health.watch(HealthCheckRequest::default()).await;
        let mut states = watched.ok()?.into_inner();
        let first = states.message().await.ok()??;
        (first.status() == ServingStatus::Serving).then_some(states)
    };
    // The chat does not depend on it.
    timeout(WATCH_TIMEOUT, watch).await.ok()?
}

/// Completes when the server reports that it no longer serves.
async fn server_stops(health: Option<Streaming<HealthCheckResponse>>) {
    if let Some(mut states) = health {
        while let Ok(Some(state)) = states.message().await {
            if state.status() == ServingStatus::NotServing {
                return;
            }
        }
    }
    pending().await
}
