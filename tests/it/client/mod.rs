//! The transfer client: against a scripted server, and against a server program that is killed.

mod aborts;
mod client_credentials;
mod downloads;
mod local_files;
mod readers;
mod repeats;
mod restarts;
mod uploads;
