//! What is counted, for whoever watches the server.

mod meters;

pub(super) use self::meters::Meters;
