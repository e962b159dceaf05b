//! Many small files, each written by a call of its own.

use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use muxs_bench::{Report, pb};

use crate::{
    RECV_BUFFER_BYTES, Server,
    files::{Checksums, Upload},
    grpc::{MessageScanner, Once},
    http2::{Connection, Source},
    many::{self, Call},
    protobuf::COMMITTED,
};

/// The files, and how to write them.
#[derive(clap::Args, Debug)]
pub(crate) struct SmallFiles {
    #[command(flatten)]
    server: Server,
    /// With which method
    #[arg(long)]
    method: Method,
    /// How many files
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    files: u32,
    /// Size of each, which one chunk holds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    bytes: u32,
    /// Into how many folders in turn
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    folders: u32,
    /// Over how many connections
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How many calls at a time on each of them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    streams: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    WriteStream,
    Write,
}

/// Writes the files until all are acknowledged.
pub(crate) fn write(small: &SmallFiles) -> Result<Report> {
    let text = text(small.bytes as usize);
    let content = text.as_bytes();
    let connections = small.connect(content)?;
    let names = (0..small.files).map(|number| format!("{}/{number}", number % small.folders));
    let span = match small.method {
        Method::WriteStream => {
            let checksums = Checksums::of(content, small.bytes.into());
            let calls = names.map(|filename| WriteStream {
                upload: Upload::new(filename, small.bytes.into(), &checksums),
                messages: MessageScanner::default(),
                committed: false,
            });
            many::run(connections, small.streams, calls)?
        }
        Method::Write => {
            let calls = names.map(|filename| Write::new(filename, text.clone()));
            many::run(connections, small.streams, calls)?
        }
    };
    Ok(Report {
        bytes: u64::from(small.files) * u64::from(small.bytes),
        seconds: span.duration().as_secs_f64(),
        ..Report::default()
    })
}

impl SmallFiles {
    fn connect(&self, content: &[u8]) -> Result<Vec<Connection>> {
        let shared: Arc<[u8]> = content.into();
        let connect = |_| self.server.connect_with(shared.clone(), RECV_BUFFER_BYTES);
        (0..self.connections).map(connect).collect()
    }
}

/// Returns a text of so many bytes: Write takes UTF-8 only.
fn text(bytes: usize) -> String {
    let letter = |byte| char::from(b'a' + byte % 26);
    muxs_bench::noise(bytes).into_iter().map(letter).collect()
}

struct WriteStream<'a> {
    upload: Upload<'a>,
    messages: MessageScanner,
    committed: bool,
}

impl Call for WriteStream<'_> {
    const PATH: &'static str = "/muxs.FileController/WriteStream";

    fn request(&mut self) -> &mut impl Source {
        &mut self.upload
    }

    fn receive(&mut self, content: &[u8]) -> Result<()> {
        self.messages.feed(content, &mut |message| {
            ensure!(!self.committed, "something comes after committed");
            self.committed = message.start.first() == Some(&COMMITTED);
            Ok(())
        })
    }

    fn check(&self) -> Result<()> {
        ensure!(self.committed, "a file was not committed");
        ensure!(
            self.upload.is_empty(),
            "a file was committed before its end"
        );
        Ok(())
    }
}

struct Write {
    request: Once,
    messages: MessageScanner,
    answers: u32,
}

impl Write {
    fn new(filename: String, text: String) -> Self {
        Self {
            request: Once::whole(&pb::Files { filename, text }),
            messages: MessageScanner::default(),
            answers: 0,
        }
    }
}

impl Call for Write {
    const PATH: &'static str = "/muxs.FileController/Write";

    fn request(&mut self) -> &mut impl Source {
        &mut self.request
    }

    fn receive(&mut self, content: &[u8]) -> Result<()> {
        self.messages.feed(content, &mut |message| {
            // Code 0 and no failure take no bytes.
            ensure!(message.length == 0, "a file was not written");
            self.answers += 1;
            Ok(())
        })
    }

    fn check(&self) -> Result<()> {
        let answers = self.answers;
        ensure!(answers == 1, "a Write has {answers} answers");
        Ok(())
    }
}
