//! What holds for every call: compression, deadlines, malformed requests, the drain, and memory.

mod compression;
mod deadlines;
mod drain;
mod memory;
mod protocol_errors;
mod services;
