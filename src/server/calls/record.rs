//! What is known of one call, from its first byte to its end, for whoever watches the server.

use std::{sync::Arc, time::Instant};

use http::HeaderMap;
use tonic::{Code, Status};

use super::{Calls, messages::Messages};

/// One call. Dropped, it tells how the call ended; if nobody said so, its client has gone.
pub(super) struct Record {
    calls: Arc<Calls>,
    /// The number of its method.
    method: usize,
    begun: Instant,
    code: Code,
    /// In bytes.
    pub(super) received: u64,
    sent: u64,
    messages: Messages,
}

/// Counts the messages of one request as they come.
pub(super) struct Received {
    calls: Arc<Calls>,
    method: usize,
}

impl Record {
    /// A call that begins.
    pub(super) fn new(calls: Arc<Calls>, method: usize) -> Self {
        if let Some(meters) = &calls.meters {
            meters.of(method).started.add(1);
        }
        Self {
            calls,
            method,
            begun: Instant::now(),
            code: Code::Cancelled,
            received: 0,
            sent: 0,
            messages: Messages::default(),
        }
    }

    /// For the messages of its request, if they are counted.
    pub(super) fn of_request(&self) -> Option<Received> {
        self.calls.meters.is_some().then(|| Received {
            calls: Arc::clone(&self.calls),
            method: self.method,
        })
    }

    /// Notes what is sent.
    pub(super) fn sends(&mut self, data: &[u8]) {
        self.sent += data.len() as u64;
        if let Some(meters) = &self.calls.meters {
            let before = self.messages.begun;
            // Nothing is refused here.
            let _ = self.messages.pass(data, |_| Ok(()), |_| Ok(()));
            meters
                .of(self.method)
                .sent
                .add(self.messages.begun - before);
        }
    }

    /// Notes how the call ends.
    pub(super) fn ends(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if let Some(meters) = &self.calls.meters {
            meters.of(self.method).ended(self.code, took);
        }
    }
}

/// How headers, or trailers, say that a call ends.
pub(super) fn code(headers: &HeaderMap) -> Code {
    match headers.get(Status::GRPC_STATUS) {
        Some(status) => Code::from_bytes(status.as_bytes()),
        None => Code::Unknown,
    }
}

impl Received {
    pub(super) fn messages(&self, count: u64) {
        if let Some(meters) = &self.calls.meters {
            meters.of(self.method).received.add(count);
        }
    }
}
