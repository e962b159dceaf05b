//! Generates the Rust side of the contract, as any user of tonic would. Needs no protoc.

const PROTO: &str = "../proto/mux.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    tonic_prost_build::configure()
        // Not copied out of the message it came in.
        .bytes(".muxs.Chunk.data")
        .compile_fds(protox::compile([PROTO], ["../proto"])?)?;
    Ok(())
}
