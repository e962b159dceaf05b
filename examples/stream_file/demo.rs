//! The demonstration: a file there and back over a connection that is cut half-way.

#![expect(
    clippy::disallowed_methods,
    reason = "these files are the user's, not a server's store"
)]

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use indicatif::HumanBytes;
use muxs::client::Client;

use crate::{
    cut,
    report::{Report, print_line},
    support::ServerArgs,
    transfer::failed,
};

/// What the file is called on the server.
const REMOTE: &str = "stream_file-demo.bin";

pub(crate) async fn run(
    args: &ServerArgs,
    size: u64,
    json: bool,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    let server = args.find_or_start().await?;
    let folder = tempfile::tempdir()?;
    let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
    let human = HumanBytes(size);
    if !json && !quiet {
        eprintln!("Making a file of {human}.");
    }
    let making = original.clone();
    tokio::task::spawn_blocking(move || make(&making, size))
        .await?
        .context("cannot make the file")?;

    let mut report = Report::new("Sending", json, quiet)?;
    report.say(&format!(
        "Uploading it as {REMOTE} over a connection that is cut half-way."
    ));
    // Small files are through before they are cut.
    let link = cut::link(&server.endpoint, &server.address, size / 2);
    let client = Client::new(server.authorize(link)?);
    let upload = client.upload(&original, REMOTE);
    let sent = match upload.on_event(|event| report.event(event)).await {
        Ok(info) => info,
        Err(error) => return Ok(failed(&report, &error)),
    };
    let upload_time = report.elapsed();
    report.done(&sent, "Uploaded.", io::stderr());

    let mut report = Report::new("Receiving", json, quiet)?;
    report.say("Downloading it again.");
    let client = Client::new(server.connect().await?);
    let download = client.download(REMOTE, &copy);
    let received = match download.on_event(|event| report.event(event)).await {
        Ok(info) => info,
        Err(error) => return Ok(failed(&report, &error)),
    };
    let download_time = report.elapsed();
    report.done(&received, "Downloaded.", io::stderr());

    let same = tokio::task::spawn_blocking(move || are_same(&original, &copy)).await??;
    anyhow::ensure!(same, "the copy differs from the original");
    if !json && !quiet {
        eprintln!("The copy has the same bytes.");
        if server.address == args.addr {
            eprintln!("On the server the file stays, as {REMOTE}.");
        }
        let header = format!("{:<24} {:>12} {:>10} {:>12}", "", "size", "time", "rate");
        print_line(io::stdout(), &header);
        let line = |what, time: Duration| {
            let rate = size as f64 / 1e6 / time.as_secs_f64();
            let row = format!("{what:<24} {human:>12} {time:>10.2?} {rate:>7.0} MB/s");
            print_line(io::stdout(), &row);
        };
        line("upload, cut half-way", upload_time);
        line("download", download_time);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a file that does not compress. What is in it is the same each time.
fn make(path: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    // Marsaglia's xorshift64.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = left.min(block.len() as u64);
        file.write_all(&block[..length as usize])?;
        left -= length;
    }
    Ok(())
}

fn are_same(one: &Path, other: &Path) -> io::Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    let open = |path| File::open(path).map(|file| BufReader::with_capacity(1 << 20, file));
    let (mut one, mut other) = (open(one)?, open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let length = one.read(&mut left)?;
        other.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}
