//! Clients that mean harm, against the server program: none of them costs more memory than its
//! share, an honest client on another connection is served all the while, and whoever goes too far
//! is cut off.

mod connections;
mod floods;
mod headers;
mod messages;
mod patience;
mod readers;
mod resets;
mod windows;

const SAY_HELLO: &str = "/muxs.Greeter/SayHello";
const BIDI_HELLO: &str = "/muxs.Greeter/BidiHello";
const LOTS_OF_REPLIES: &str = "/muxs.Greeter/LotsOfReplies";
const READ_STREAM: &str = "/muxs.FileController/ReadStream";
const WRITE_STREAM: &str = "/muxs.FileController/WriteStream";

/// Calls at a time on one connection.
const MAX_STREAMS: u32 = 128;
