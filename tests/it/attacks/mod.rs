//! Clients that mean harm, against the server program: none of them costs more memory than its
//! share, an honest client on another connection is served all the while, and whoever goes too far
//! is cut off.

mod connections;
mod floods;
mod headers;
mod messages;
mod readers;
mod resets;
mod slow_clients;
mod windows;
