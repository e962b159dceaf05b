//! The flags for files and uploads.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args as Flags, builder::BoolishValueParser};
use humantime::Duration;
use muxs::files::{AccessMode, MAX_CHUNK_BYTES, Settings};

#[derive(Debug, Flags)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// Folder whose files are served; created if it is missing
    #[arg(
        long,
        value_name = "DIR",
        env = "MUXS_ROOT",
        default_value = "./muxs-data"
    )]
    pub(crate) root: PathBuf,

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
    upload_ttl: Duration,

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

    /// Uploads that may be open at a time
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UPLOADS",
        default_value = "256"
    )]
    max_uploads: usize,

    /// Unfinished uploads that may be there at a time, those included whose client is gone
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UNFINISHED_UPLOADS",
        default_value = "10000"
    )]
    max_unfinished_uploads: usize,

    /// The same for each caller, on a server that requires access tokens
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UNFINISHED_UPLOADS_PER_OWNER",
        default_value = "1000"
    )]
    max_unfinished_uploads_per_owner: usize,

    /// Send files in chunks of this size, at most 1MiB, to clients that have no wish
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHUNK_BYTES",
        default_value = "256KiB",
        value_parser = parse_chunk_bytes
    )]
    pub(crate) chunk_bytes: u32,
}

impl FileArgs {
    pub(crate) fn settings(&self) -> Settings {
        let defaults = Settings::default();
        Settings {
            access: match self.read_only {
                true => AccessMode::ReadOnly,
                false => AccessMode::ReadWrite,
            },
            upload_ttl: self.upload_ttl.into(),
            checkpoint_bytes: self.checkpoint_bytes.as_u64(),
            max_upload_bytes: match self.max_upload_bytes {
                Some(limit) => limit.as_u64(),
                None => defaults.max_upload_bytes,
            },
            max_open_uploads: self.max_uploads,
            max_unfinished_uploads: self.max_unfinished_uploads,
            max_unfinished_uploads_per_owner: self.max_unfinished_uploads_per_owner,
        }
    }
}

/// Parses the size of a chunk.
fn parse_chunk_bytes(text: &str) -> Result<u32, String> {
    let size: ByteSize = text.parse()?;
    match u32::try_from(size.as_u64()) {
        Ok(bytes @ 1..=MAX_CHUNK_BYTES) => Ok(bytes),
        _ => Err("a chunk has 1 byte to 1MiB".to_owned()),
    }
}
