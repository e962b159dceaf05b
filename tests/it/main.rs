//! The contract, over real TCP and through the one door, `app::run`.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at the disk behind the server's back"
)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attacks;
mod auth;
mod client;
mod compression;
mod downloads;
mod drain;
mod durability;
mod examples;
mod fake;
mod files;
mod greeter;
mod interrupted;
mod layering;
mod malformed;
mod memory;
mod metrics;
mod model;
mod names;
mod patience;
mod program;
mod raw;
mod service_manager;
mod serving;
mod streams;
mod support;
mod tls;
mod tokens;
mod transfers;
mod unix_socket;
mod uploads;
mod watched;
