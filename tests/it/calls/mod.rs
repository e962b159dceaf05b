//! What holds for every call: compression, deadlines, malformed requests, the drain, and memory.

mod compression;
mod deadlines;
mod drain;
mod memory;
mod own_services;
mod protocol_errors;
mod services;
