//! `stream_file [URL [SIZE_MIB]]`: a file there and back, chunk by chunk, with both calls cut half-way.
//!
//! Watch: the second upload call starts where the server has the bytes on its disk, not where the first stopped.

mod support;

use std::{env, error::Error, fs::File, io, io::Read, num, os::unix::fs::FileExt, time::Instant};

use indicatif::{ProgressBar as Bar, ProgressStyle};
use muxs::checksum::Crc32c;
use muxs::pb::{self, FileInfo, OpenUpload, read_stream_response::Event};
use muxs::pb::{write_stream_request::Step, write_stream_response::State};
use tempfile::tempfile;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

type Files = pb::file_controller_client::FileControllerClient<tonic::transport::Channel>;
type Outcome<T = Option<FileInfo>> = Result<T, Box<dyn Error>>;
const FILENAME: &str = "stream_file-demo.bin";
const KEPT: &str = " The file stays on the server as stream_file-demo.bin.";
const MIB: u64 = 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), support::Failed> {
    let parse = |mib: String| mib.parse().map(num::NonZeroU32::get);
    let mib = env::args().nth(2).map_or(Ok(256), parse);
    let mib = mib.map_err(|_| "the size is a number of MiB, such as 8")?;
    let files = &mut Files::new(support::connect().await?);
    eprintln!("Making {mib} MiB of random bytes and uploading them as {FILENAME}.");
    let (original, copy, size) = (tempfile()?, tempfile()?, u64::from(mib) * MIB);
    let random = File::options().read(true).open("/dev/urandom")?;
    io::copy(&mut random.take(size), &mut &original)?;
    let bar = Bar::new(size); // Drawn only on a terminal.
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent} %")?);
    let begin = Instant::now();
    let open = OpenUpload {
        filename: FILENAME.to_owned(),
        upload_id: uuid::Uuid::new_v4().to_string(), // The same id resumes the upload.
        size: Some(size),
        ..Default::default()
    };
    upload(files, &open, &original, size / 2, &bar).await?;
    bar.suspend(|| eprintln!("The call is cut half-way. Another one opens the upload again."));
    let info = upload(files, &open, &original, size, &bar).await?;
    let info = info.ok_or("the upload was not finished")?;
    let (sent, begin) = (begin.elapsed().as_secs_f64(), Instant::now());
    bar.suspend(|| eprintln!("Downloading it, cut half-way, too."));
    download(files, &info, &copy, &bar).await?;
    let received = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();
    if checksum(&copy, size)? != checksum(&original, size)? {
        return Err("the copy differs from the original".into());
    }
    let kept = support::STARTED.get().map_or(KEPT, |()| "");
    eprintln!("The checksums agree.{kept}");
    eprintln!("`muxs::client` does the same in a line: client.upload(path, name).await?\n");
    println!("cut half-way          size      time          rate");
    for (row, time) in [("upload", sent), ("download", received)] {
        let [time, rate] = [time, f64::from(mib) / time].map(digits);
        println!("{row:14}{mib:>8} MiB{time:>8} s{rate:>8} MiB/s");
    }
    Ok(())
}

/// Sends the bytes up to `end`, from where the server has them. Finishes the upload if these are all.
async fn upload(files: &mut Files, open: &OpenUpload, from: &File, end: u64, bar: &Bar) -> Outcome {
    let (steps, outgoing) = tokio::sync::mpsc::channel(1);
    steps.send(Some(Step::Open(open.clone()))).await?;
    let outgoing = ReceiverStream::new(outgoing).map(|step| pb::WriteStreamRequest { step });
    let mut states = files.write_stream(outgoing).await?.into_inner();
    let Some(State::Progress(progress)) = states.message().await?.and_then(|it| it.state) else {
        return Err("the upload is finished already".into());
    };
    let mut offset = progress.persisted_size;
    let mut whole = checksum(from, offset)?;
    if whole.value() != progress.persisted_crc32c {
        return Err("the file does not begin with the bytes on the server".into());
    }
    bar.suspend(|| eprintln!("The server has {} MiB of it on its disk.", offset / MIB));
    // A closed channel means that the call has ended, and `states` has the reason.
    while offset < end && !steps.is_closed() {
        let mut data = vec![0; (end - offset).min(MIB / 4) as usize];
        from.read_exact_at(&mut data, offset)?;
        let mut chunk = pb::Chunk::default();
        (chunk.offset, chunk.crc32c) = (offset, Some(Crc32c::of(&data).value()));
        chunk.data = data.into();
        (whole, offset) = (whole.update(&chunk.data), offset + chunk.data.len() as u64);
        let _ = steps.send(Some(Step::Chunk(chunk))).await;
        bar.set_position(offset);
    }
    if Some(offset) < open.size && !steps.is_closed() {
        return Ok(None); // Dropping `states` cancels the call.
    }
    let (size, crc32c) = (offset, Some(whole.value()));
    let finish = pb::FinishUpload { size, crc32c };
    let _ = steps.send(Some(Step::Finish(finish))).await;
    while let Some(response) = states.message().await? {
        if let Some(State::Committed(info)) = response.state {
            return Ok(Some(info));
        }
    }
    Err("the call ended before the file was in place".into())
}

/// Receives the file. The second call starts where the first ended, in the same version of the file.
async fn download(files: &mut Files, info: &FileInfo, to: &File, bar: &Bar) -> Outcome<()> {
    let mut request = pb::ReadStreamRequest::default();
    (request.filename, request.if_etag) = (info.filename.clone(), info.etag.clone());
    for end in [info.size / 2, info.size] {
        let mut events = files.read_stream(request.clone()).await?.into_inner();
        while request.offset < end
            && let Some(event) = events.message().await?
        {
            if let Some(Event::Chunk(chunk)) = event.event {
                if chunk.crc32c != Some(Crc32c::of(&chunk.data).value()) {
                    return Err("a chunk was damaged on the way".into());
                }
                to.write_all_at(&chunk.data, chunk.offset)?;
                request.offset = chunk.offset + chunk.data.len() as u64;
                bar.set_position(request.offset);
            }
        }
    }
    Ok(())
}

fn checksum(file: &File, size: u64) -> io::Result<Crc32c> {
    let (mut sum, mut block) = (Crc32c::default(), vec![0; MIB as usize]);
    for offset in (0..size).step_by(block.len()) {
        block.truncate((size - offset) as usize);
        file.read_exact_at(&mut block, offset)?;
        sum = sum.update(&block);
    }
    Ok(sum)
}

/// Formats a number with three significant digits.
fn digits(number: f64) -> String {
    let decimals = (2.0 - number.log10().floor()).clamp(0.0, 3.0) as usize;
    format!("{number:.decimals$}")
}
