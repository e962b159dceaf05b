//! Closes files that have no name any more: with the last handle their blocks are freed, which takes half a
//! second for some gigabytes.

use std::{
    fs::File,
    io,
    ops::Deref,
    os::unix::fs::MetadataExt,
    sync::mpsc::{self, Sender},
    thread,
};

/// A thread that closes files.
#[derive(Clone, Debug)]
pub(super) struct Closer(Sender<File>);

impl Closer {
    /// Starts the thread. It ends with the last clone.
    pub(super) fn start() -> io::Result<Self> {
        let (closer, files) = mpsc::channel();
        thread::Builder::new()
            .name("muxs-closer".to_owned())
            .spawn(move || files.into_iter().for_each(drop::<File>))?;
        Ok(Self(closer))
    }

    /// Closes the file soon. Does not wait.
    pub(super) fn close(&self, file: File) {
        // The thread ends after the last sender only.
        let _ = self.0.send(file);
    }
}

/// An open file that a [`Closer`] closes if it has lost its name by then.
#[derive(Debug)]
pub(super) struct ClosedElsewhere {
    file: Option<File>,
    closer: Closer,
}

impl ClosedElsewhere {
    pub(super) fn new(file: File, closer: &Closer) -> Self {
        Self {
            file: Some(file),
            closer: closer.clone(),
        }
    }
}

impl Deref for ClosedElsewhere {
    type Target = File;

    fn deref(&self) -> &File {
        self.file.as_ref().expect("only drop takes it")
    }
}

impl Drop for ClosedElsewhere {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && file.metadata().is_ok_and(|found| found.nlink() == 0)
        {
            self.closer.close(file);
        }
    }
}
