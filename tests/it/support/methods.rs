//! The paths of the methods that tests call frame by frame, and the default limit of such calls.

/// The default of `--max-streams`: concurrent calls on one connection.
pub(crate) const MAX_STREAMS: u32 = 128;

pub(crate) const SAY_HELLO: &str = "/muxs.Greeter/SayHello";
pub(crate) const SQUARE: &str = "/muxs.Greeter/Square";
pub(crate) const LOTS_OF_REPLIES: &str = "/muxs.Greeter/LotsOfReplies";
pub(crate) const LOTS_OF_GREETINGS: &str = "/muxs.Greeter/LotsOfGreetings";
pub(crate) const BIDI_HELLO: &str = "/muxs.Greeter/BidiHello";
pub(crate) const READ: &str = "/muxs.FileController/Read";
pub(crate) const READ_STREAM: &str = "/muxs.FileController/ReadStream";
pub(crate) const WRITE: &str = "/muxs.FileController/Write";
pub(crate) const WRITE_STREAM: &str = "/muxs.FileController/WriteStream";
pub(crate) const STAT: &str = "/muxs.FileController/Stat";
pub(crate) const ABORT_UPLOAD: &str = "/muxs.FileController/AbortUpload";
pub(crate) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
