//! The pages of `docs/`, compared with what they describe.

mod pages;
mod tables;
