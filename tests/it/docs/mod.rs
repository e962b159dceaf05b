//! What the pages of `docs/` say, checked against the sources and by trying it.

mod stock_server;
mod traps;
