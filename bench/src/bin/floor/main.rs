//! The limits of the machine, which no server can exceed.
//!
//! These are a copy, a checksum, durable small files, and transfers between sockets and files without a protocol.

mod fsync_rename;
mod serve;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use muxs_bench::{Report, crc32c, noise};

use fsync_rename::FsyncRename;
use serve::Serve;

/// The size of the buffer that is moved at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Measures the machine, or serves as fast as it can.
#[derive(Debug, Parser)]
enum Floor {
    /// Copy a buffer again and again
    Memcpy(Amount),
    /// Take the CRC-32C of a buffer again and again
    Crc(Amount),
    /// Write small files: write, fsync, rename into place, fsync the folder
    FsyncRename(FsyncRename),
    /// Move bytes between connections and files
    Serve(Serve),
}

#[derive(clap::Args, Debug)]
struct Amount {
    /// How much in all
    #[arg(long, value_name = "COUNT")]
    bytes: u64,
}

impl Amount {
    /// Measures the time that `work` takes for all bytes, in a buffer that stays in the cache.
    fn measure(&self, mut work: impl FnMut(&[u8])) -> Result<()> {
        let hot = noise(BUFFER_BYTES);
        let mut rest = self.bytes;
        let from = Instant::now();
        while rest > 0 {
            let next = rest.min(BUFFER_BYTES as u64);
            work(black_box(&hot[..next as usize]));
            rest -= next;
        }
        print(self.bytes, from.elapsed())
    }
}

fn print(bytes: u64, time: Duration) -> Result<()> {
    let report = Report {
        bytes,
        seconds: time.as_secs_f64(),
        ..Report::default()
    };
    Ok(report.print()?)
}

fn main() -> Result<()> {
    match Floor::parse() {
        Floor::Memcpy(amount) => {
            let mut copy = vec![0; BUFFER_BYTES];
            amount.measure(|hot| black_box(&mut copy)[..hot.len()].copy_from_slice(hot))
        }
        Floor::Crc(amount) => amount.measure(|hot| {
            black_box(crc32c(0, hot));
        }),
        Floor::FsyncRename(files) => print(files.total_bytes(), files.run()?),
        Floor::Serve(serve) => serve.run(),
    }
}
