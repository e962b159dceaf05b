//! The registry of the uploads in use, and who owns each.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::files::{
    error::Error,
    local::uploads::{key::UploadKey, partial::PartialUpload},
};

/// The uploads in use: a slot each, as long as references to it exist.
#[derive(Debug)]
pub(super) struct UploadRegistry {
    slots: Slots,
    max_open: usize,
}

type Slots = Arc<Mutex<HashMap<UploadKey, Slot>>>;

#[derive(Debug, Default)]
struct Slot {
    ownership: Arc<RwLock<Ownership>>,
    references: usize,
}

impl UploadRegistry {
    pub(super) fn new(max_open: usize) -> Self {
        Self {
            slots: Slots::default(),
            max_open,
        }
    }

    /// Takes a reference to an upload's slot. A referenced upload is not swept.
    pub(super) fn acquire(&self, key: UploadKey) -> SlotRef {
        self.acquire_from(&mut self.slots.lock(), key)
    }

    /// Takes a reference to the slot of an upload to be opened. None if the registry is full and the upload
    /// is not in it: an upload in use can always be taken over.
    pub(super) fn try_acquire(&self, key: UploadKey) -> Option<SlotRef> {
        let mut slots = self.slots.lock();
        let has_capacity = slots.len() < self.max_open || slots.contains_key(&key);
        has_capacity.then(|| self.acquire_from(&mut slots, key))
    }

    fn acquire_from(&self, slots: &mut HashMap<UploadKey, Slot>, key: UploadKey) -> SlotRef {
        let slot = slots.entry(key.clone()).or_default();
        slot.references += 1;
        SlotRef {
            key,
            ownership: Arc::clone(&slot.ownership),
            slots: Arc::clone(&self.slots),
        }
    }

    /// The number of uploads in use.
    pub(super) fn len(&self) -> usize {
        self.slots.lock().len()
    }
}

/// A counted reference to an upload's slot.
pub(super) struct SlotRef {
    pub(super) key: UploadKey,
    ownership: Arc<RwLock<Ownership>>,
    slots: Slots,
}

impl SlotRef {
    /// Whether this is the only reference.
    pub(super) fn is_only(&self) -> bool {
        let slots = self.slots.lock();
        let slot = slots.get(&self.key);
        slot.is_some_and(|slot| slot.references == 1)
    }

    /// Locks the ownership for work on the upload. Several pieces of work may run at a time.
    pub(super) fn shared(&self) -> RwLockReadGuard<'_, Ownership> {
        self.ownership.read()
    }

    /// Locks the ownership for a change of it. Waits until all work on the upload has ended, and delays new
    /// work.
    pub(super) fn exclusive(&self) -> RwLockWriteGuard<'_, Ownership> {
        self.ownership.write()
    }
}

impl Drop for SlotRef {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(&self.key) {
            slot.references -= 1;
            if slot.references == 0 {
                slots.remove(&self.key);
            }
        }
    }
}

/// Called when another stream takes over the upload, or the upload is aborted.
pub(crate) type OnSuperseded = Box<dyn FnOnce() + Send + Sync>;

/// Which stream may write to an upload: the one with the current epoch. All others get [`Error::Superseded`].
#[derive(Default)]
pub(super) struct Ownership {
    pub(super) epoch: u64,
    pub(super) upload: Option<PartialUpload>,
    on_superseded: Option<OnSuperseded>,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ownership = f.debug_struct("Ownership");
        ownership
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Ownership {
    /// Starts a new epoch and closes the upload. Returns whether this superseded an owner.
    pub(super) fn take_over(&mut self, on_superseded: Option<OnSuperseded>) -> bool {
        self.epoch += 1;
        self.upload = None;
        let previous = std::mem::replace(&mut self.on_superseded, on_superseded);
        previous.map(|notify| notify()).is_some()
    }

    /// Returns the upload to its owner. Fails with [`Error::Superseded`] for any other epoch.
    pub(super) fn check_epoch(&self, epoch: u64) -> Result<&PartialUpload, Error> {
        match &self.upload {
            Some(upload) if self.epoch == epoch => Ok(upload),
            _ => Err(Error::Superseded),
        }
    }
}
