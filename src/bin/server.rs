//! The server program: flags in, one line out for each address, then calls until it is told to
//! stop.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
};

use anyhow::Context;
use bytesize::ByteSize;
use clap::{Parser, ValueEnum, builder::BoolishValueParser};
use muxs::{
    files::{Access, MAX_CHUNK_BYTES, Settings, Store},
    server::{self, Config},
};
use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    signal::unix::{self, SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

/// Serves greetings and files over gRPC.
#[derive(Debug, Parser)]
#[command(name = "server", version, after_help = EXAMPLES)]
struct Args {
    /// Address to listen on; repeat it for several. Port 0 takes a free one
    #[arg(
        long,
        value_name = "ADDR",
        env = "MUXS_LISTEN",
        default_value = "127.0.0.1:50051",
        value_delimiter = ','
    )]
    listen: Vec<String>,

    /// Folder whose files are served; created if it is missing
    #[arg(
        long,
        value_name = "DIR",
        env = "MUXS_ROOT",
        default_value = "./muxs-data"
    )]
    root: PathBuf,

    /// Refuse every write, and write nothing: the folder may be in use by another server or on a
    /// read-only disk
    #[arg(long, env = "MUXS_READ_ONLY", value_parser = BoolishValueParser::new())]
    read_only: bool,

    /// How long an upload that nobody goes on with is kept, such as 90m or 7d
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_UPLOAD_TTL",
        default_value = "24h"
    )]
    upload_ttl: humantime::Duration,

    /// Make an upload durable after this much, such as 16MiB, and in any case each second
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHECKPOINT_BYTES",
        default_value = "64MiB"
    )]
    checkpoint_bytes: ByteSize,

    /// Refuse to upload larger files than this [default: no limit]
    #[arg(long, value_name = "SIZE", env = "MUXS_MAX_UPLOAD_BYTES")]
    max_upload_bytes: Option<ByteSize>,

    /// Send files in chunks of this size, at most 1MiB, to clients that have no wish
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHUNK_BYTES",
        default_value = "256KiB",
        value_parser = chunk_bytes
    )]
    chunk_bytes: u32,

    /// How logs are written to standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "MUXS_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

const EXAMPLES: &str = "\
Examples:
  server
      Serve the files in ./muxs-data on 127.0.0.1:50051
  server --listen 127.0.0.1:0 --root /srv/files --read-only
      Serve a folder as it is, on a free port
  server --listen 127.0.0.1:50051 --listen '[::1]:50051'
      Listen on two addresses
  RUST_LOG=debug MUXS_LOG_FORMAT=json server
      Log more, one JSON object a line

SIGINT and SIGTERM stop the server once the calls under way have ended, after 30
seconds at the latest. A second one stops it at once.
";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    start_logging(args.log_format);
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let served = runtime.block_on(serve_until_stopped(args));
    // Dropping it would wait for its blocking threads, and so for a disk that does not answer.
    runtime.shutdown_background();
    served
}

async fn serve_until_stopped(args: Args) -> anyhow::Result<()> {
    // Before the line that says the server is ready: whoever has read it may send a signal.
    let mut stop = pin!(stop_signal()?);
    // At the limit for the size of a file, a write sends this signal. Unhandled, it would end the
    // process; handled, even like this, the write fails as on a full disk.
    let _file_too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    let mut settings = Settings {
        access: match args.read_only {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        },
        upload_ttl: args.upload_ttl.into(),
        checkpoint_bytes: args.checkpoint_bytes.as_u64(),
        ..Settings::default()
    };
    if let Some(limit) = args.max_upload_bytes {
        settings.max_upload_bytes = limit.as_u64();
    }
    let mut listeners = Vec::new();
    for address in &args.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        listeners.push(listener);
    }
    let root = args.root.clone();
    // After a crash this may take its time, in which it can be stopped too.
    let store = tokio::select! {
        opened = tokio::task::spawn_blocking(move || Store::open(root, settings)) => opened??,
        () = &mut stop => return Ok(()),
    };
    announce(&listeners, &args.root)?;
    let config = Config {
        chunk_bytes: args.chunk_bytes,
        ..Config::new(store)
    };
    server::run(listeners, config, stop).await;
    tracing::info!("stopped");
    Ok(())
}

/// The size of a chunk on the command line.
fn chunk_bytes(text: &str) -> Result<u32, String> {
    let size: ByteSize = text.parse()?;
    match u32::try_from(size.as_u64()) {
        Ok(bytes @ 1..=MAX_CHUNK_BYTES) => Ok(bytes),
        _ => Err("a chunk has 1 byte to 1MiB".to_owned()),
    }
}

/// Says where, one line for each address. From the bind on, the system takes connections in.
fn announce(listeners: &[TcpListener], root: &Path) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for listener in listeners {
        let address = listener.local_addr()?;
        // Nobody may be reading; that is no reason not to serve.
        let _ = writeln!(
            out,
            "muxs listening on http://{address}, serving {}",
            root.display()
        );
    }
    let _ = out.flush();
    Ok(())
}

/// Completes at the first SIGINT or SIGTERM; from then on, another ends the process at once.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    async fn either(interrupt: &mut unix::Signal, terminate: &mut unix::Signal) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    Ok(async move {
        either(&mut interrupt, &mut terminate).await;
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            tracing::warn!("stopped at once, calls under way are cut");
            std::process::exit(1);
        });
    })
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}
