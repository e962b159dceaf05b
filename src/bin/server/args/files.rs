//! The flags for files and uploads.

use std::{path::PathBuf, time::Duration};

use clap::Args as Flags;
use muxs::files::{AccessMode, Settings};

use super::values::{
    parse_chunk_bytes, parse_count, parse_max_upload, parse_nonzero_duration, parse_size,
    parse_switch,
};

#[derive(Debug, Flags)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// Folder to serve; created if it is missing
    #[arg(
        long,
        value_name = "DIR",
        env = "MUXS_ROOT",
        default_value = "./muxs-data"
    )]
    pub(crate) root: PathBuf,

    /// Refuse every write, and write nothing: another server may use the folder, or the disk may be
    /// read-only [default: off]
    #[arg(long, env = "MUXS_READ_ONLY", value_parser = parse_switch)]
    read_only: bool,

    /// Keep an unfinished upload, and the result of a finished one, for this time after its last use
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_UPLOAD_TTL",
        default_value = "24h",
        value_parser = parse_nonzero_duration
    )]
    upload_ttl: Duration,

    /// Make an upload durable after this many bytes, and at least every second
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_CHECKPOINT_BYTES",
        default_value = "64MiB",
        value_parser = parse_size
    )]
    checkpoint_bytes: u64,

    /// Largest file that can be uploaded [default: no limit]
    #[arg(
        long,
        value_name = "SIZE",
        env = "MUXS_MAX_UPLOAD_BYTES",
        value_parser = parse_max_upload
    )]
    max_upload_bytes: Option<u64>,

    /// Uploads that are open at the same time
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UPLOADS",
        default_value = "256",
        value_parser = parse_count::<usize>
    )]
    max_uploads: usize,

    /// Unfinished uploads, open or interrupted
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UNFINISHED_UPLOADS",
        default_value = "10000",
        value_parser = parse_count::<usize>
    )]
    max_unfinished_uploads: usize,

    /// Unfinished uploads of one caller, on a server that requires access tokens
    #[arg(
        long,
        value_name = "COUNT",
        env = "MUXS_MAX_UNFINISHED_UPLOADS_PER_OWNER",
        default_value = "1000",
        value_parser = parse_count::<usize>
    )]
    max_unfinished_uploads_per_owner: usize,

    /// Chunk size of downloads if the client requests none, at most 1MiB
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
            upload_ttl: self.upload_ttl,
            checkpoint_bytes: self.checkpoint_bytes,
            max_upload_bytes: self.max_upload_bytes.unwrap_or(defaults.max_upload_bytes),
            max_open_uploads: self.max_uploads,
            max_unfinished_uploads: self.max_unfinished_uploads,
            max_unfinished_uploads_per_owner: self.max_unfinished_uploads_per_owner,
        }
    }
}
