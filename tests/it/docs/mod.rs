//! The pages of `docs/`, compared with what they describe and tried.

mod pages;
mod sources;
mod stock_server;
mod tables;
mod traps;
