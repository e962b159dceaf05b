//! Code that the programs of the benchmark share.

mod crc;
mod noise;
mod report;

pub use crc::crc32c;
pub use noise::noise;
pub use report::{Report, Span};

/// The contract of `proto/mux.proto`: messages, servers and clients.
#[expect(clippy::allow_attributes, reason = "generated code brings its own")]
pub mod pb {
    tonic::include_proto!("muxs");
}
