//! Hostile clients against the server program. Each is held to its share of memory or cut off, and a
//! well-behaved client on another connection is served meanwhile.

mod connections;
mod floods;
mod headers;
mod messages;
mod readers;
mod resets;
mod slow_clients;
mod windows;
