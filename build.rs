//! Generates Rust code from `proto/`, without protoc.
//!
//! The messages, servers and clients are in `muxs.rs`, the quick start's service in
//! `helloworld.Greeter.rs`, and the descriptor set that reflection serves in `descriptors.bin`. The examples
//! have `echo.rs`, `echo.bin`, `numbers.rs` and `numbers.bin`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_build::manual::{Builder, Method, Service};

const PROTOS: [&str; 2] = ["proto/mux.proto", "proto/helloworld.proto"];

/// The services of the examples, which a package of the library may lack.
const EXAMPLE_PROTOS: [&str; 2] = ["echo", "numbers"];

/// The path of the codec in the crate.
const CODEC: &str = "crate::codec::Codec";

#[expect(
    clippy::disallowed_methods,
    reason = "generated code goes to cargo's output directory"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;

    Builder::new()
        .build_client(has_feature("CLIENT"))
        .build_server(has_feature("SERVER"))
        .compile(&[helloworld(&descriptors)]);
    let muxs = FileDescriptorSet {
        file: descriptors
            .file
            .into_iter()
            .filter(|file| file.package() != "helloworld")
            .collect(),
    };
    tonic_prost_build::configure()
        .build_client(has_feature("CLIENT"))
        .build_server(has_feature("SERVER"))
        .codec_path(CODEC)
        // As `Bytes`, a chunk shares the buffer of its message instead of copying it.
        .bytes(".muxs.Chunk.data")
        .compile_fds(muxs)?;
    for name in EXAMPLE_PROTOS {
        let proto = format!("examples/{name}.proto");
        if has_feature("CLI") && Path::new(&proto).exists() {
            println!("cargo::rerun-if-changed={proto}");
            let descriptors = protox::compile([proto], ["examples"])?;
            let encoded = descriptors.encode_to_vec();
            fs::write(out_dir.join(name).with_extension("bin"), encoded)?;
            tonic_prost_build::configure().compile_fds(descriptors)?;
        }
    }
    Ok(())
}

fn has_feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

/// Describes the quick start's Greeter, over the messages of `muxs`.
///
/// On the wire its messages are those of `muxs.Greeter` without the later fields, so it needs no Rust types
/// of its own, and the same handlers serve it.
fn helloworld(descriptors: &FileDescriptorSet) -> Service {
    let file = descriptors
        .file
        .iter()
        .find(|file| file.package() == "helloworld")
        .expect("helloworld.proto is compiled");
    let service = &file.service[0];
    let rust_type = |name: &str| name.replace(".helloworld.", "crate::pb::");
    service
        .method
        .iter()
        .fold(
            Service::builder()
                .name(service.name())
                .package(file.package()),
            |built, method| {
                built.method(
                    Method::builder()
                        .name(snake_case(method.name()))
                        .route_name(method.name())
                        .input_type(rust_type(method.input_type()))
                        .output_type(rust_type(method.output_type()))
                        .codec_path(CODEC)
                        .build(),
                )
            },
        )
        .build()
}

fn snake_case(name: &str) -> String {
    name.char_indices()
        .fold(String::new(), |mut snake, (at, letter)| {
            if letter.is_uppercase() && at > 0 {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
            snake
        })
}
