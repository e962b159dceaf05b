//! Tests of the contract over real TCP, through `app::run`.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at the disk behind the server's back"
)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attacks;
mod auth;
mod calls;
mod client;
mod docs;
mod files;
mod greeter;
mod metrics;
mod program;
mod rules;
mod support;
mod tls;
mod uploads;
