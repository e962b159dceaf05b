//! The metrics by name, as they are at the moment. `docs/metrics.md` lists them for people.

use std::{
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use prometheus::proto::{Bucket, Histogram, LabelPair, MetricFamily, MetricType};
use tonic::Code;

use super::{
    Limit, Meters, Metrics,
    family::{Kind, counter, family, label, one_counter, one_gauge, with},
    meters::{BUCKETS, CODES, Meter},
};
use crate::{counter::Counter, files::StagedStats, server::calls::Method};

pub(super) fn families(metrics: &Metrics, staged: Option<StagedStats>) -> Vec<MetricFamily> {
    let mut families = calls(metrics);
    families.extend(files(metrics, staged));
    families.extend(server(metrics));
    // A family without a metric cannot be written.
    families.retain(|family| !family.get_metric().is_empty());
    families
}

/// The names and labels are those of go-grpc-prometheus, which dashboards know.
fn calls(metrics: &Metrics) -> Vec<MetricFamily> {
    let workers = metrics.workers();
    let methods = metrics.methods.all().iter().enumerate();
    let methods: Vec<_> = methods
        .map(|(number, method)| {
            (
                method,
                Summed {
                    number,
                    workers: &workers,
                },
            )
        })
        // What is known is there from the start, or its first call would not look like a change.
        .filter(|(method, of)| method.is_known() || of.sum(|meter| &meter.started) > 0)
        .collect();
    let counters = |name, help, count: fn(&Meter) -> &Counter| {
        let each = methods.iter();
        let each = each.map(|(method, of)| counter(labels(method), of.sum(count)));
        family(name, help, MetricType::COUNTER, each.collect())
    };
    let handled = methods.iter().flat_map(|(method, of)| {
        let codes = (0..CODES).map(|code| (code, of.sum(|meter| &meter.handled[code])));
        codes
            .filter(|(code, count)| *count > 0 || (method.is_known() && *code == Code::Ok as usize))
            .map(|(code, count)| {
                let code = label("grpc_code", code_name(Code::from(code as i32)));
                counter([labels(method), vec![code]].concat(), count)
            })
    });
    let seconds = methods.iter();
    let seconds = seconds.map(|(method, of)| with(labels(method), Kind::Histogram(of.seconds())));
    vec![
        counters(
            "grpc_server_started_total",
            "Calls that have begun.",
            |meter| &meter.started,
        ),
        family(
            "grpc_server_handled_total",
            "Calls that have ended, by the code that they ended with.",
            MetricType::COUNTER,
            handled.collect(),
        ),
        counters(
            "grpc_server_msg_received_total",
            "Messages that have come to the handlers of calls.",
            |meter| &meter.received,
        ),
        counters(
            "grpc_server_msg_sent_total",
            "Messages that calls have sent.",
            |meter| &meter.sent,
        ),
        family(
            "grpc_server_handling_seconds",
            "How long calls took, from their headers to their end.",
            MetricType::HISTOGRAM,
            seconds.collect(),
        ),
    ]
}

fn files(metrics: &Metrics, staged: Option<StagedStats>) -> Vec<MetricFamily> {
    let stats = metrics.store.stats();
    let uploads = &stats.uploads;
    let count = |name, help, count: &Counter| one_counter(name, help, count.get());
    let mut families = vec![
        count(
            "muxs_file_read_bytes_total",
            "Bytes of files that were read for clients.",
            &stats.read_bytes,
        ),
        count(
            "muxs_file_written_bytes_total",
            "Bytes of uploads and texts that were written.",
            &stats.written_bytes,
        ),
        one_gauge(
            "muxs_uploads_open",
            "Uploads that are open.",
            metrics.store.open_uploads() as f64,
        ),
        count(
            "muxs_uploads_begun_total",
            "Uploads that began at their first byte.",
            &uploads.begun,
        ),
        count(
            "muxs_uploads_resumed_total",
            "Uploads that went on with what an earlier call had left.",
            &uploads.resumed,
        ),
        count(
            "muxs_uploads_superseded_total",
            "Uploads that were taken from the call that had them by another.",
            &uploads.superseded,
        ),
        count(
            "muxs_uploads_committed_total",
            "Uploads that were put in their place.",
            &uploads.committed,
        ),
        count(
            "muxs_uploads_expired_total",
            "Uploads that were removed because nobody went on with them.",
            &uploads.expired,
        ),
        count(
            "muxs_uploads_aborted_total",
            "Uploads that were removed by their clients.",
            &uploads.aborted,
        ),
    ];
    if let Some(staged) = staged {
        families.push(one_gauge(
            "muxs_uploads_staged",
            "Unfinished uploads on the disk.",
            staged.uploads as f64,
        ));
        families.push(one_gauge(
            "muxs_uploads_staged_bytes",
            "What has come of unfinished uploads.",
            staged.bytes as f64,
        ));
    }
    families
}

fn server(metrics: &Metrics) -> Vec<MetricFamily> {
    let refused = Limit::ALL.map(|limit| {
        let labels = vec![label("limit", limit.name())];
        counter(labels, metrics.refused(limit))
    });
    let version = vec![label("version", env!("CARGO_PKG_VERSION"))];
    let began = metrics.began.duration_since(SystemTime::UNIX_EPOCH);
    vec![
        one_gauge(
            "muxs_connections",
            "Connections that are open.",
            metrics.admission.open() as f64,
        ),
        one_counter(
            "muxs_connections_total",
            "Connections that were let in.",
            metrics.admission.total(),
        ),
        family(
            "muxs_refused_total",
            "What was refused or cut, by the limit that said so.",
            MetricType::COUNTER,
            refused.into(),
        ),
        one_gauge(
            "muxs_draining",
            "Whether the server takes no further calls, and stops when the last has ended.",
            f64::from(metrics.is_draining()),
        ),
        family(
            "muxs_build_info",
            "The version, as a label.",
            MetricType::GAUGE,
            vec![with(version, Kind::Gauge(1.0))],
        ),
        one_gauge(
            "process_start_time_seconds",
            "When the server began, in seconds since 1970.",
            began.unwrap_or_default().as_secs_f64(),
        ),
    ]
}

impl Metrics {
    /// What each worker has counted.
    fn workers(&self) -> Vec<Arc<Meters>> {
        let workers = self.workers.lock();
        workers.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a limit has refused, whoever keeps it.
    fn refused(&self, limit: Limit) -> u64 {
        let stats = self.store.stats();
        let by_the_store = match limit {
            Limit::MaxUploads => stats.uploads.refused.get(),
            Limit::MaxUploadBytes => stats.uploads.too_large.get(),
            Limit::MessageBytes => stats.texts_too_large.get(),
            Limit::ChunkBytes => stats.chunks_too_large.get(),
            _ => 0,
        };
        self.refusals.of(limit) + by_the_store
    }
}

/// One method, over all workers.
struct Summed<'a> {
    number: usize,
    workers: &'a [Arc<Meters>],
}

impl Summed<'_> {
    fn sum(&self, count: impl Fn(&Meter) -> &Counter) -> u64 {
        let workers = self.workers.iter();
        workers
            .map(|meters| count(meters.of(self.number)).get())
            .sum()
    }

    /// The count of all is that of the buckets, whatever happens meanwhile.
    fn seconds(&self) -> Histogram {
        let mut total = 0;
        let mut up_to = |bucket: usize| {
            total += self.sum(|meter| &meter.seconds[bucket]);
            total
        };
        let buckets = BUCKETS.iter().enumerate().map(|(number, most)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*most);
            bucket.set_cumulative_count(up_to(number));
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(up_to(BUCKETS.len()));
        let nanoseconds = self.sum(|meter| &meter.nanoseconds);
        histogram.set_sample_sum(nanoseconds as f64 / 1e9);
        histogram
    }
}

fn labels(method: &Method) -> Vec<LabelPair> {
    vec![
        label("grpc_type", method.shape),
        label("grpc_service", &method.service),
        label("grpc_method", &method.name),
    ]
}

/// As the servers of Go spell it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
