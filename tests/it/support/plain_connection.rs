//! A connection for generated clients that adds nothing of its own: no timer for a deadline and no second attempt.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use muxs::pb::file_controller_client::FileControllerClient;
use tonic::body::Body;
use tower::Service;

/// The largest window: this client reads everything at once.
const WINDOW: u32 = 8 * 1024 * 1024;

/// One HTTP/2 connection. A call that is dropped is reset at once, and so before all later calls.
#[derive(Clone)]
pub(crate) struct PlainConnection(SendRequest<Bytes>);

impl PlainConnection {
    /// Connects the files of a server, if it listens.
    pub(crate) async fn files(
        address: SocketAddr,
    ) -> Result<FileControllerClient<Self>, Box<dyn std::error::Error>> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let (requests, connection) = builder.handshake(stream).await?;
        // It ends with its last call, or when the server is gone, which the calls notice.
        tokio::spawn(connection);
        let origin = format!("http://{address}").parse()?;
        Ok(FileControllerClient::with_origin(Self(requests), origin))
    }
}

impl Service<Request<Body>> for PlainConnection {
    type Response = Response<Answer>;
    type Error = h2::Error;
    type Future = BoxFuture<'static, Result<Self::Response, h2::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let sent = self.0.send_request(Request::from_parts(head, ()), false);
        Box::pin(async {
            let (response, requests) = sent?;
            let mut call = Call {
                requests: Arc::new(Mutex::new(requests)),
                is_over: false,
            };
            tokio::spawn(send(body, Arc::clone(&call.requests)));
            let response = response.await;
            call.is_over = response.is_err();
            Ok(response?.map(|answer| Answer { answer, call }))
        })
    }
}

/// A call whose drop resets it.
struct Call {
    requests: Arc<Mutex<SendStream<Bytes>>>,
    is_over: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_over {
            self.requests.lock().unwrap().send_reset(Reason::CANCEL);
        }
    }
}

/// Sends the body of a request, as far as the server takes it.
async fn send(mut body: Body, requests: Arc<Mutex<SendStream<Bytes>>>) -> Result<(), h2::Error> {
    while let Some(frame) = body.frame().await {
        let Ok(Ok(mut data)) = frame.map(Frame::into_data) else {
            return Ok(());
        };
        while !data.is_empty() {
            requests.lock().unwrap().reserve_capacity(data.len());
            let capacity =
                std::future::poll_fn(|context| requests.lock().unwrap().poll_capacity(context));
            let Some(capacity) = capacity.await else {
                return Ok(());
            };
            let part = data.split_to(capacity?.min(data.len()));
            requests.lock().unwrap().send_data(part, false)?;
        }
    }
    requests.lock().unwrap().send_data(Bytes::new(), true)
}

/// The body of a response.
pub(crate) struct Answer {
    answer: RecvStream,
    call: Call,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        Poll::Ready(match ready!(self.answer.poll_data(context)) {
            Some(Ok(data)) => {
                let released = self.answer.flow_control().release_capacity(data.len());
                Some(released.map(|()| Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                let trailers = ready!(self.answer.poll_trailers(context));
                self.call.is_over = true;
                trailers
                    .map(|trailers| trailers.map(Frame::trailers))
                    .transpose()
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }
}
