//! The registry of the unfinished uploads: who owns each, and how many there are.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::files::{
    error::Error,
    local::{
        turn::Turn,
        uploads::{key::UploadKey, partial::PartialUpload},
    },
};

/// The number of streams of one upload, of which all but one wait for a takeover. They take threads.
const MAX_STREAMS: usize = 32;

/// How many uploads there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadLimits {
    /// Open in a stream.
    pub(super) open: usize,
    /// Open, or with bytes on the disk.
    pub(super) unfinished: usize,
    /// The same of one owner. Without authentication there are no owners.
    pub(super) unfinished_per_owner: usize,
}

/// The uploads in use, and those that have bytes on the disk: a slot each.
#[derive(Debug)]
pub(super) struct UploadRegistry {
    slots: SharedTable,
    limits: UploadLimits,
}

type SharedTable = Arc<Mutex<UploadTable>>;

#[derive(Debug, Default)]
struct UploadTable {
    by_key: HashMap<UploadKey, Slot>,
    /// The slots with streams.
    open: usize,
    /// The slots that streams or bytes hold.
    unfinished: usize,
    by_owner: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Slot {
    ownership: Arc<RwLock<Ownership>>,
    /// The references that streams hold.
    streams: usize,
    /// All references.
    references: usize,
    /// Whether it has bytes on the disk.
    is_stored: bool,
}

impl Slot {
    fn is_unfinished(&self) -> bool {
        self.streams > 0 || self.is_stored
    }
}

impl UploadTable {
    /// Changes a slot, and keeps the counts. A slot that nothing holds is removed.
    fn update<T>(&mut self, key: &UploadKey, change: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = self.by_key.entry(key.clone()).or_default();
        let before = (slot.streams > 0, slot.is_unfinished());
        let changed = change(slot);
        let after = (slot.streams > 0, slot.is_unfinished());
        if slot.references == 0 {
            // Closes the files.
            slot.ownership = Arc::default();
            if !slot.is_stored {
                self.by_key.remove(key);
            }
        }
        self.open = self.open + usize::from(after.0) - usize::from(before.0);
        self.unfinished = self.unfinished + usize::from(after.1) - usize::from(before.1);
        if let Some(owner) = key.owner()
            && before.1 != after.1
        {
            let count = self.by_owner.entry(owner.to_owned()).or_default();
            *count = *count + usize::from(after.1) - usize::from(before.1);
            if *count == 0 {
                self.by_owner.remove(owner);
            }
        }
        changed
    }

    /// Whether a stream may open the upload. One that is open can always be taken over.
    fn has_capacity(&self, key: &UploadKey, limits: UploadLimits) -> bool {
        let slot = self.by_key.get(key);
        let is_open = slot.is_some_and(|slot| slot.streams > 0);
        let is_known = slot.is_some_and(Slot::is_unfinished);
        let of_owner = key.owner().and_then(|owner| self.by_owner.get(owner));
        let streams = slot.map_or(0, |slot| slot.streams);
        streams < MAX_STREAMS
            && (is_open || self.open < limits.open)
            && (is_known
                || self.unfinished < limits.unfinished
                    && of_owner.is_none_or(|count| *count < limits.unfinished_per_owner))
    }
}

impl UploadRegistry {
    pub(super) fn new(limits: UploadLimits) -> Self {
        Self {
            slots: SharedTable::default(),
            limits,
        }
    }

    /// Records that an upload of an earlier server has bytes on the disk.
    pub(super) fn add_stored(&self, key: &UploadKey) {
        let mut slots = self.slots.lock();
        slots.update(key, |slot| slot.is_stored = true);
    }

    /// Takes a reference to an upload's slot. A referenced upload is not swept.
    pub(super) fn acquire(&self, key: UploadKey) -> UploadRef {
        self.acquire_from(&mut self.slots.lock(), key, false)
    }

    /// Takes a reference for a stream. None if there are too many uploads.
    pub(super) fn open(&self, key: UploadKey) -> Option<UploadRef> {
        let mut slots = self.slots.lock();
        let has_capacity = slots.has_capacity(&key, self.limits);
        has_capacity.then(|| self.acquire_from(&mut slots, key, true))
    }

    fn acquire_from(&self, slots: &mut UploadTable, key: UploadKey, is_stream: bool) -> UploadRef {
        let ownership = slots.update(&key, |slot| {
            slot.references += 1;
            slot.streams += usize::from(is_stream);
            Arc::clone(&slot.ownership)
        });
        UploadRef {
            key,
            ownership,
            is_stream,
            slots: Arc::clone(&self.slots),
        }
    }

    /// The number of uploads that are open in a stream.
    pub(super) fn open_count(&self) -> usize {
        self.slots.lock().open
    }
}

/// A counted reference to an upload's slot.
pub(crate) struct UploadRef {
    pub(super) key: UploadKey,
    ownership: Arc<RwLock<Ownership>>,
    is_stream: bool,
    slots: SharedTable,
}

impl UploadRef {
    /// Whether this is the only reference.
    pub(super) fn is_only(&self) -> bool {
        let slots = self.slots.lock();
        let slot = slots.by_key.get(&self.key);
        slot.is_some_and(|slot| slot.references == 1)
    }

    /// Whether the upload may have files on the disk.
    pub(super) fn is_stored(&self) -> bool {
        let slots = self.slots.lock();
        let slot = slots.by_key.get(&self.key);
        slot.is_some_and(|slot| slot.is_stored)
    }

    /// Records whether the upload has bytes on the disk.
    pub(super) fn set_stored(&self, is_stored: bool) {
        let mut slots = self.slots.lock();
        slots.update(&self.key, |slot| slot.is_stored = is_stored);
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

impl Drop for UploadRef {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        slots.update(&self.key, |slot| {
            slot.references -= 1;
            slot.streams -= usize::from(self.is_stream);
        });
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
    /// The number of the last call that opened or aborted the upload.
    last_turn: u64,
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
    /// Fails if the call has ended, or a later one has opened or aborted the upload.
    pub(super) fn check_turn(&self, turn: &Turn) -> Result<(), Error> {
        turn.check_live()?;
        match turn.number > self.last_turn {
            true => Ok(()),
            false => Err(Error::Superseded),
        }
    }

    /// Starts a new epoch and closes the upload. Returns whether this superseded an owner.
    pub(super) fn take_over(&mut self, turn: &Turn, on_superseded: Option<OnSuperseded>) -> bool {
        self.last_turn = turn.number;
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
