//! Calls on a connection of HTTP/2 that know no deadline of their own: only the server ends them.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use prost::Message;
use tonic::Status;

use super::{
    assertions::with_timeout,
    raw_http2::{connect_h2, request},
};

/// A connection. The server sees its calls in the order in which they begin.
#[derive(Clone)]
pub(crate) struct CallConnection {
    address: SocketAddr,
    requests: SendRequest<Bytes>,
}

impl CallConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let (requests, _driver) = connect_h2(address).await;
        Self { address, requests }
    }

    /// Begins a call, whose deadline is only told to the server.
    pub(crate) async fn begin(&self, path: &str, deadline: Option<Duration>) -> RawCall {
        let mut head = request(self.address, path);
        if let Some(deadline) = deadline {
            let timeout = format!("{}u", deadline.as_micros());
            head.headers_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
        }
        let mut requests = with_timeout(self.requests.clone().ready()).await.unwrap();
        let (head_of_answer, body) = requests.send_request(head, false).unwrap();
        RawCall {
            body,
            answer: Answer::Awaited(head_of_answer),
            received: BytesMut::new(),
        }
    }

    /// Begins a call that has one request.
    pub(crate) async fn begin_unary(
        &self,
        path: &str,
        message: &impl Message,
        deadline: Option<Duration>,
    ) -> RawCall {
        let mut call = self.begin(path, deadline).await;
        call.send(message);
        let _ = call.body.send_data(Bytes::new(), true);
        call
    }
}

pub(crate) struct RawCall {
    body: SendStream<Bytes>,
    answer: Answer,
    received: BytesMut,
}

enum Answer {
    Awaited(ResponseFuture),
    Begun(RecvStream),
}

impl RawCall {
    /// Queues a message. Whether the call has ended is said by its answer.
    pub(crate) fn send(&mut self, message: &impl Message) {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.encoded_len() as u32);
        message.encode(&mut framed).unwrap();
        let _ = self.body.send_data(framed.freeze(), false);
    }

    pub(crate) fn cancel(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }

    /// Returns the next message of the server, `None` at the end of a call that succeeded.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let lost = |error: h2::Error| Status::unknown(error.to_string());
        if let Answer::Awaited(answer) = &mut self.answer {
            let (head, body) = with_timeout(answer).await.map_err(lost)?.into_parts();
            self.answer = Answer::Begun(body);
            if let Some(status) = Status::from_header_map(&head.headers) {
                return Err(status);
            }
        }
        let Answer::Begun(answer) = &mut self.answer else {
            unreachable!("the answer has begun");
        };
        loop {
            if self.received.len() >= 5 {
                let length = u32::from_be_bytes(self.received[1..5].try_into().unwrap()) as usize;
                if self.received.len() >= 5 + length {
                    let message = self.received.split_to(5 + length).split_off(5);
                    return Ok(Some(M::decode(message).unwrap()));
                }
            }
            let Some(data) = with_timeout(answer.data()).await else {
                break;
            };
            let data = data.map_err(lost)?;
            let _ = answer.flow_control().release_capacity(data.len());
            self.received.extend_from_slice(&data);
        }
        let trailers = with_timeout(answer.trailers()).await.map_err(lost)?;
        let status = trailers.and_then(|trailers| Status::from_header_map(&trailers));
        match status {
            Some(status) if status.code() != tonic::Code::Ok => Err(status),
            _ => Ok(None),
        }
    }

    /// Returns the response of a call that has one.
    pub(crate) async fn response<M: Message + Default>(mut self) -> Result<M, Status> {
        let response = self.next().await?;
        assert!(self.next::<M>().await?.is_none(), "a second response");
        Ok(response.expect("a response"))
    }
}
