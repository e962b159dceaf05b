//! What the pages of `docs/` say, checked against the sources and by trying it.

mod sources;
mod stock_server;
mod traps;
