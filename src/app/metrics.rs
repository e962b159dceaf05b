//! The metrics of the files. `docs/metrics.md` lists them for people.

use crate::{
    counter::Counter,
    files::Store,
    metric_family::{Family, Sample},
};

/// The counters of a store.
pub(super) fn store_families(store: &Store) -> Vec<Family> {
    let stats = store.stats();
    let uploads = &stats.uploads;
    let counter = |name, help, counter: &Counter| {
        Family::counters(name, help, vec![Sample::unlabeled(counter.get())])
    };
    let refused = [
        ("max_uploads", &uploads.refused),
        ("max_upload_bytes", &uploads.too_large),
        ("message_bytes", &stats.texts_too_large),
        ("chunk_bytes", &stats.chunks_too_large),
    ];
    let refused = refused.map(|(limit, counter)| Sample {
        labels: vec![("limit", limit.to_owned())],
        value: counter.get(),
    });
    vec![
        counter(
            "muxs_file_read_bytes_total",
            "Bytes of files that were read for clients.",
            &stats.read_bytes,
        ),
        counter(
            "muxs_file_written_bytes_total",
            "Bytes of uploads and of Write's texts that were written.",
            &stats.written_bytes,
        ),
        Family::gauges(
            "muxs_uploads_open",
            "Uploads that a stream has open.",
            vec![Sample::unlabeled(store.open_uploads() as f64)],
        ),
        counter(
            "muxs_uploads_begun_total",
            "Uploads that received their first byte.",
            &uploads.begun,
        ),
        counter(
            "muxs_uploads_resumed_total",
            "Uploads that were resumed by a later call.",
            &uploads.resumed,
        ),
        counter(
            "muxs_uploads_superseded_total",
            "Uploads that another call took over.",
            &uploads.superseded,
        ),
        counter(
            "muxs_uploads_committed_total",
            "Uploads that were finished: their file is in place.",
            &uploads.committed,
        ),
        counter(
            "muxs_uploads_expired_total",
            "Unfinished uploads that were removed because they were not resumed in time.",
            &uploads.expired,
        ),
        counter(
            "muxs_uploads_aborted_total",
            "Uploads that clients aborted.",
            &uploads.aborted,
        ),
        // Merged with the limits that the server counts.
        Family::counters(
            "muxs_refused_total",
            "Connections, calls, messages and uploads that were refused or ended by a limit.",
            refused.into(),
        ),
    ]
}

/// The unfinished uploads on the disk. Blocking.
pub(super) fn upload_dir_families(store: &Store) -> Vec<Family> {
    let staged = match store.staged() {
        Ok(staged) => staged,
        Err(error) => {
            tracing::warn!(?error, "cannot count the unfinished uploads");
            return Vec::new();
        }
    };
    vec![
        Family::gauges(
            "muxs_uploads_staged",
            "Unfinished uploads on the disk.",
            vec![Sample::unlabeled(staged.uploads as f64)],
        ),
        Family::gauges(
            "muxs_uploads_staged_bytes",
            "Bytes of unfinished uploads on the disk.",
            vec![Sample::unlabeled(staged.bytes as f64)],
        ),
    ]
}
