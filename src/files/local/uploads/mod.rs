//! The uploads of a store.

pub(super) mod journal;
pub(super) mod partial;
pub(super) mod registry;
