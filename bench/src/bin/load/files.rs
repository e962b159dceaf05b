//! Uploads and downloads of a file.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use muxs_bench::{
    Report, Span, crc32c, noise,
    pb::{
        FinishUpload, OpenUpload, ReadStreamRequest, WriteStreamRequest, write_stream_request::Step,
    },
};
use uuid::Uuid;

use crate::{
    Server,
    grpc::{self, MessageScanner, Once},
    http2::{Outgoing, Source},
    protobuf::{COMMITTED, Chunk, INFO, encode_before_data},
    streams,
};

/// The size of chunks in bytes, unless a flag sets another.
const CHUNK_BYTES: u32 = 256 * 1024;

/// A file, and how to transfer it.
#[derive(clap::Args, Debug)]
pub(crate) struct Transfer {
    #[command(flatten)]
    server: Server,
    /// Name of the file; each stream of an upload appends its number
    #[arg(long, value_name = "NAME")]
    filename: String,
    /// Size of the file
    #[arg(long, value_name = "COUNT")]
    bytes: u64,
    /// How many streams at once, each on a connection of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    streams: usize,
    /// Size of the chunks
    #[arg(long, value_name = "COUNT", default_value_t = CHUNK_BYTES, value_parser = clap::value_parser!(u32).range(1..))]
    chunk_bytes: u32,
}

impl Transfer {
    fn chunks(&self) -> u64 {
        self.bytes.div_ceil(self.chunk_bytes.into())
    }

    fn report(&self, span: Span, messages: u64) -> Report {
        Report {
            bytes: self.bytes * self.streams as u64,
            messages: messages * self.streams as u64,
            seconds: span.duration().as_secs_f64(),
            ..Report::default()
        }
    }
}

/// Reads the file with ReadStream.
pub(crate) fn read(transfer: &Transfer) -> Result<Report> {
    let connect = |_| transfer.server.connect(Arc::new([]));
    let connections = (0..transfer.streams).map(connect).collect::<Result<_>>()?;
    let span = streams::run_concurrently(connections, |mut connection| {
        let mut request = Once::whole(&ReadStreamRequest {
            filename: transfer.filename.clone(),
            max_chunk_bytes: transfer.chunk_bytes,
            ..ReadStreamRequest::default()
        });
        let from = Instant::now();
        let stream = grpc::call(&mut connection, "/muxs.FileController/ReadStream");
        let mut messages = MessageScanner::default();
        let mut count = 0;
        let mut bytes = 0;
        let ended = connection.run(stream, &mut request, &mut |_, content| {
            messages.feed(content, &mut |message| {
                if count > 0 {
                    let chunk = Chunk::parse_prefix(message.start, message.length)?;
                    ensure!(chunk.offset == bytes, "{chunk:?} does not go on at {bytes}");
                    bytes += chunk.data as u64;
                } else {
                    ensure!(message.start.first() == Some(&INFO), "info is not first");
                }
                count += 1;
                Ok(())
            })
        })?;
        let span = Span::since(from);
        ensure!(
            bytes == transfer.bytes && count == 1 + transfer.chunks() && messages.is_whole(),
            "{bytes} bytes in {count} messages"
        );
        grpc::check_end(ended)?;
        Ok(span)
    })?;
    Ok(transfer.report(span, 1 + transfer.chunks()))
}

/// Writes a file with WriteStream.
pub(crate) fn write(transfer: &Transfer) -> Result<Report> {
    let shared: Arc<[u8]> = noise(transfer.chunk_bytes as usize).into();
    let checksums = Checksums::of(&shared, transfer.bytes);
    let connect = |number| {
        let filename = format!("{}-{number}", transfer.filename);
        let upload = Upload::new(filename, transfer.bytes, &checksums);
        Ok((transfer.server.connect(shared.clone())?, upload))
    };
    let uploads = (0..transfer.streams).map(connect).collect::<Result<_>>()?;
    let span = streams::run_concurrently(uploads, |(mut connection, mut upload)| {
        let from = Instant::now();
        let stream = grpc::call(&mut connection, "/muxs.FileController/WriteStream");
        let mut messages = MessageScanner::default();
        let mut committed = false;
        let ended = connection.run(stream, &mut upload, &mut |_, content| {
            messages.feed(content, &mut |message| {
                ensure!(!committed, "something comes after committed");
                committed = message.start.first() == Some(&COMMITTED);
                Ok(())
            })
        })?;
        let span = Span::since(from);
        ensure!(committed, "the file was not committed");
        ensure!(upload.is_empty(), "the file was committed before its end");
        grpc::check_end(ended)?;
        Ok(span)
    })?;
    // The messages sent: `open`, the chunks, `finish`.
    Ok(transfer.report(span, 2 + transfer.chunks()))
}

/// Checksums of a file that repeats one chunk.
pub(crate) struct Checksums {
    chunk_bytes: u64,
    chunk: u32,
    last: u32,
    whole: u32,
}

impl Checksums {
    pub(crate) fn of(chunk: &[u8], bytes: u64) -> Self {
        let chunk_bytes = chunk.len() as u64;
        let last = &chunk[..(bytes % chunk_bytes) as usize];
        let all_but_last = (0..bytes / chunk_bytes).fold(0, |sum, _| crc32c(sum, chunk));
        Self {
            chunk_bytes,
            chunk: crc32c(0, chunk),
            last: crc32c(0, last),
            whole: crc32c(all_but_last, last),
        }
    }
}

/// The request of WriteStream: `open`, chunks, `finish`.
pub(crate) struct Upload<'a> {
    checksums: &'a Checksums,
    /// The size of the file.
    bytes: u64,
    /// The end of the current chunk in the file.
    offset: u64,
    /// The bytes of the current message that precede its data, if it has any.
    head: Vec<u8>,
    head_sent: usize,
    /// The unsent range of the current chunk.
    data: std::ops::Range<usize>,
    is_finished: bool,
}

impl<'a> Upload<'a> {
    pub(crate) fn new(filename: String, bytes: u64, checksums: &'a Checksums) -> Self {
        let open = Step::Open(OpenUpload {
            filename,
            upload_id: Uuid::new_v4().to_string(),
            ..OpenUpload::default()
        });
        Self {
            checksums,
            bytes,
            offset: 0,
            head: encode(open),
            head_sent: 0,
            data: 0..0,
            is_finished: false,
        }
    }

    fn is_message_sent(&self) -> bool {
        self.head_sent == self.head.len() && self.data.is_empty()
    }

    fn next_message(&mut self) {
        let rest = self.bytes - self.offset;
        self.head_sent = 0;
        if rest == 0 {
            self.is_finished = true;
            self.head = encode(Step::Finish(FinishUpload {
                size: self.bytes,
                crc32c: Some(self.checksums.whole),
            }));
            return;
        }
        let (length, sum) = match rest >= self.checksums.chunk_bytes {
            true => (self.checksums.chunk_bytes, self.checksums.chunk),
            false => (rest, self.checksums.last),
        };
        let before = encode_before_data(self.offset, sum, length as usize);
        self.head.clear();
        self.head
            .extend(grpc::message_prefix(before.len() + length as usize));
        self.head.extend(before);
        self.data = 0..length as usize;
        self.offset += length;
    }
}

impl Source for Upload<'_> {
    fn push_to(&mut self, limit: usize, to: &mut Outgoing) -> usize {
        let mut room = limit;
        while room > 0 && !self.is_empty() {
            if self.is_message_sent() {
                self.next_message();
            }
            let head = &self.head[self.head_sent..];
            let head = &head[..head.len().min(room)];
            to.push(head);
            self.head_sent += head.len();
            room -= head.len();
            let from = self.data.start;
            self.data.start += self.data.len().min(room);
            to.push_shared(from..self.data.start);
            room -= self.data.start - from;
        }
        limit - room
    }

    fn is_empty(&self) -> bool {
        self.is_finished && self.is_message_sent()
    }
}

fn encode(step: Step) -> Vec<u8> {
    grpc::encode(&WriteStreamRequest { step: Some(step) })
}
