//! The uploads of a store: which are on the disk, and who has which.
//!
//! An upload is two files, named by a digest of its filename and id: `.data` holds its bytes,
//! `.journal` what is to become of them. The journal is there first and gone first, so bytes
//! without one belong to nobody. Its time of change says when somebody last cared for the upload.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::files::{
    error::Error,
    local::{
        staged::Staged,
        uploads::journal::{Journal, Record},
        uploads::partial::Unfinished,
    },
    path::FilePath,
    settings::Settings,
    stats::{StagedStats, StoreStats},
    upload::{UploadId, UploadPlan},
};

/// Longer than any disk lives, and short enough to be counted from now.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How the names of its two files end.
const DATA: &str = ".data";
const JOURNAL: &str = ".journal";

#[derive(Debug)]
pub(in crate::files::local) struct Uploads {
    folder: Arc<Dir>,
    pub(in crate::files::local) ttl: Duration,
    pub(in crate::files::local) max_bytes: u64,
    max_open: usize,
    slots: Slots,
    pub(in crate::files::local) stats: Arc<StoreStats>,
}

/// A slot for each upload that somebody has to do with at the moment.
type Slots = Arc<Mutex<HashMap<Key, Slot>>>;

#[derive(Debug, Default)]
struct Slot {
    turn: Arc<RwLock<Turn>>,
    leases: usize,
}

/// Tells whoever has an upload that another has taken it.
pub(crate) type Superseded = Box<dyn FnOnce() + Send + Sync>;

/// Whose turn it is with an upload.
#[derive(Default)]
pub(in crate::files::local) struct Turn {
    /// Of the one who opened it last.
    pub(in crate::files::local) number: u64,
    pub(in crate::files::local) upload: Option<Unfinished>,
    superseded: Option<Superseded>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut turn = f.debug_struct("Turn");
        turn.field("number", &self.number).finish_non_exhaustive()
    }
}

impl Turn {
    /// Ends the turn of who had the upload, if anybody had; the next one's begins.
    pub(in crate::files::local) fn next(&mut self, superseded: Option<Superseded>) -> bool {
        self.number += 1;
        self.upload = None;
        let before = std::mem::replace(&mut self.superseded, superseded);
        before.map(|tell| tell()).is_some()
    }
}

impl Uploads {
    /// The uploads in `folder`.
    pub(in crate::files::local) fn new(
        folder: Dir,
        settings: &Settings,
        stats: Arc<StoreStats>,
    ) -> Self {
        Self {
            folder: Arc::new(folder),
            ttl: settings.upload_ttl.min(LONGEST_TTL),
            max_bytes: settings.max_upload_bytes,
            max_open: settings.max_open_uploads,
            slots: Slots::default(),
            stats,
        }
    }

    pub(in crate::files::local) fn folder(&self) -> &Arc<Dir> {
        &self.folder
    }

    /// Makes an upload one's own business: as long as the lease is held, it is not swept.
    pub(in crate::files::local) fn lease(&self, key: Key) -> Lease {
        self.lease_of(key, &mut self.slots.lock())
    }

    /// The same for an upload that is going to be open. There is always room for one that somebody
    /// has: it can be taken over.
    pub(in crate::files::local) fn lease_to_open(&self, key: Key) -> Result<Lease, Error> {
        let mut slots = self.slots.lock();
        if slots.len() >= self.max_open && !slots.contains_key(&key) {
            self.stats.uploads.refused.add(1);
            return Err(Error::TooManyUploads);
        }
        Ok(self.lease_of(key, &mut slots))
    }

    fn lease_of(&self, key: Key, slots: &mut HashMap<Key, Slot>) -> Lease {
        let slot = slots.entry(key.clone()).or_default();
        slot.leases += 1;
        Lease {
            key,
            turn: Arc::clone(&slot.turn),
            slots: Arc::clone(&self.slots),
        }
    }

    /// What the disk has of an upload. What is damaged is as if it had never been.
    pub(in crate::files::local) fn load(
        &self,
        key: &Key,
    ) -> Result<Option<(Journal, Record)>, Error> {
        undamaged(Journal::load(&self.folder, key.journal()))
    }

    /// The bytes of an upload, cut off where they stop being sure. None where there are fewer.
    pub(in crate::files::local) fn load_data(
        &self,
        key: &Key,
        size: u64,
    ) -> Result<Option<Staged>, Error> {
        undamaged(Staged::open(&self.folder, key.data()).and_then(|data| {
            let enough = data.size()? >= size;
            if enough {
                data.truncate(size)?;
            }
            Ok(enough.then_some(data))
        }))
    }

    /// Removes all that the disk has of an upload.
    pub(in crate::files::local) fn remove(&self, key: &Key) {
        for name in [key.journal(), key.data()] {
            remove(&self.folder, &name);
        }
    }

    /// Removes the uploads that have expired and that nobody has to do with, and whatever else is
    /// in the folder and belongs to none.
    pub(in crate::files::local) fn sweep(&self) -> Result<(), Error> {
        for key in self.keys()? {
            let lease = self.lease(key);
            if !lease.is_only() {
                continue;
            }
            // Whoever opens it from here on waits until it is clear what is left of it.
            let turn = lease.alone();
            if turn.upload.is_none() && self.has_expired(&lease.key) {
                // Most are what is on record of one that was finished.
                if self.is_unfinished(&lease.key) {
                    self.stats.uploads.expired.add(1);
                }
                self.remove(&lease.key);
            }
        }
        Ok(())
    }

    /// All uploads that are on the disk. What else is in the folder is removed.
    pub(in crate::files::local) fn keys(&self) -> Result<HashSet<Key>, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut keys = HashSet::new();
        for entry in self.folder.entries().map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            match name.to_str().and_then(Key::of_file) {
                Some(key) => drop(keys.insert(key)),
                None => remove(&self.folder, &name.to_string_lossy()),
            }
        }
        Ok(keys)
    }

    /// How many uploads somebody has to do with.
    pub(in crate::files::local) fn open(&self) -> usize {
        self.slots.lock().len()
    }

    /// The unfinished uploads on the disk, and how much has come of them.
    pub(in crate::files::local) fn staged(&self) -> Result<StagedStats, Error> {
        let cannot = |error| Error::io("look at the uploads", error);
        let mut staged = StagedStats::default();
        for entry in self.folder.entries().map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let is_data = |name: &str| name.ends_with(DATA) && Key::of_file(name).is_some();
            // One that is gone by now was finished.
            if entry.file_name().to_str().is_some_and(is_data)
                && let Ok(found) = entry.metadata()
            {
                staged.uploads += 1;
                staged.bytes += found.len();
            }
        }
        Ok(staged)
    }

    fn is_unfinished(&self, key: &Key) -> bool {
        let is_there = |name| self.folder.symlink_metadata(name).is_ok();
        is_there(key.journal()) && is_there(key.data())
    }

    fn has_expired(&self, key: &Key) -> bool {
        let journal = self.folder.symlink_metadata(key.journal());
        let Ok(cared_for) = journal.and_then(|journal| journal.modified()) else {
            return true;
        };
        let age = SystemTime::now().duration_since(cared_for.into_std());
        age.is_ok_and(|age| age > self.ttl)
    }
}

/// The right to be asked before an upload is swept.
pub(in crate::files::local) struct Lease {
    pub(in crate::files::local) key: Key,
    turn: Arc<RwLock<Turn>>,
    slots: Slots,
}

impl Lease {
    /// Whether nobody else has one.
    fn is_only(&self) -> bool {
        let slots = self.slots.lock();
        slots.get(&self.key).is_some_and(|slot| slot.leases == 1)
    }

    /// For work of the one whose turn it is: several pieces of it can go on at a time.
    pub(in crate::files::local) fn shared(&self) -> RwLockReadGuard<'_, Turn> {
        self.turn.read()
    }

    /// For what changes whose turn it is. Waits until all work has stopped, and no other begins.
    pub(in crate::files::local) fn alone(&self) -> RwLockWriteGuard<'_, Turn> {
        self.turn.write()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get_mut(&self.key) {
            slot.leases -= 1;
            if slot.leases == 0 {
                slots.remove(&self.key);
            }
        }
    }
}

/// Names an upload and its files: a filename, an id and an owner of any length and spelling, in 64
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::files::local) struct Key(String);

impl Key {
    pub(in crate::files::local) fn of_plan(plan: &UploadPlan) -> Self {
        Self::of(&plan.path, &plan.id, plan.owner.as_deref())
    }

    pub(in crate::files::local) fn of(path: &FilePath, id: &UploadId, owner: Option<&str>) -> Self {
        // No filename has a NUL, and no id.
        let mut digest = Sha256::new()
            .chain_update(path.as_str())
            .chain_update([0])
            .chain_update(id.as_str());
        if let Some(owner) = owner {
            digest = digest.chain_update([0]).chain_update(owner);
        }
        let digest = digest.finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn of_file(name: &str) -> Option<Self> {
        let key = name
            .strip_suffix(DATA)
            .or_else(|| name.strip_suffix(JOURNAL))?;
        let digest = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        digest.then(|| Self(key.to_owned()))
    }

    pub(in crate::files::local) fn data(&self) -> String {
        format!("{}{DATA}", self.0)
    }

    pub(in crate::files::local) fn journal(&self) -> String {
        format!("{}{JOURNAL}", self.0)
    }
}

/// What was found, or None where it is missing, or such that it never can be read. Whatever else
/// keeps it from being read may pass.
fn undamaged<T>(found: io::Result<Option<T>>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(found),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(Error::io("open the upload", error)),
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
    ) || matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::LOOP))
}

/// Removes what has a name, whatever it is. Should that fail, the next sweep tries again.
fn remove(folder: &Dir, name: &str) {
    if let Err(error) = folder.remove_file(name)
        && error.kind() == io::ErrorKind::IsADirectory
    {
        let _ = folder.remove_dir_all(name);
    }
}
