//! The server's metrics by name. `docs/metrics.md` lists them for people.

use std::{sync::Arc, time::SystemTime};

use prometheus::proto::{Histogram, LabelPair, MetricFamily};
use tonic::Code;

use super::collector::Collector;
use crate::{
    counter::Counter,
    metric_family::{Sample, counter_family, gauge_family, histogram, histogram_family, label},
    server::{
        calls::{Method, metric_name},
        metrics::{CODES, LATENCY_BUCKETS, Limit, MethodCounters, WorkerCounters},
    },
};

/// The metrics of calls. Names and labels are those of go-grpc-prometheus, which dashboards know.
pub(super) fn calls(collector: &Collector) -> Vec<MetricFamily> {
    let workers = collector.workers();
    let methods = collector.methods.all().iter().enumerate();
    let methods: Vec<_> = methods
        .map(|(id, method)| {
            (
                method,
                SummedCounters {
                    id,
                    workers: &workers,
                },
            )
        })
        // Known methods have series from the start: a first call has to look like an increase.
        .filter(|(method, summed)| {
            method.is_known() || summed.sum(|counters| &counters.started) > 0
        })
        .collect();
    let counters = |name, help, counter: fn(&MethodCounters) -> &Counter| {
        let samples = methods.iter();
        let samples = samples.map(|(method, summed)| Sample {
            labels: labels(method),
            value: summed.sum(counter),
        });
        counter_family(name, help, samples.collect())
    };
    let handled = methods.iter().flat_map(|(method, summed)| {
        let codes = (0..CODES).map(|code| (code, summed.sum(|counters| &counters.handled[code])));
        codes
            .filter(|(code, count)| *count > 0 || (method.is_known() && *code == Code::Ok as usize))
            .map(|(code, value)| {
                let code = label("grpc_code", metric_name(Code::from(code as i32)));
                let labels = [labels(method), vec![code]].concat();
                Sample { labels, value }
            })
    });
    let latencies = methods.iter().map(|(method, summed)| Sample {
        labels: labels(method),
        value: summed.latencies(),
    });
    vec![
        counters(
            "grpc_server_started_total",
            "Calls that have begun.",
            |counters| &counters.started,
        ),
        counter_family(
            "grpc_server_handled_total",
            "Calls that have ended, by the code that they ended with.",
            handled.collect(),
        ),
        counters(
            "grpc_server_msg_received_total",
            "Messages that have come to the handlers of calls.",
            |counters| &counters.messages_received,
        ),
        counters(
            "grpc_server_msg_sent_total",
            "Messages that calls have sent.",
            |counters| &counters.messages_sent,
        ),
        histogram_family(
            "grpc_server_handling_seconds",
            "How long calls took, from their headers to their end.",
            latencies.collect(),
        ),
    ]
}

/// The metrics of connections, limits and the process.
pub(super) fn server(collector: &Collector) -> Vec<MetricFamily> {
    let hits = Limit::ALL.map(|limit| Sample {
        labels: vec![label("limit", limit.name())],
        value: collector.hits.get(limit),
    });
    let version = Sample {
        labels: vec![label("version", env!("CARGO_PKG_VERSION"))],
        value: 1.0,
    };
    let started_at = collector.started_at.duration_since(SystemTime::UNIX_EPOCH);
    vec![
        gauge_family(
            "muxs_connections",
            "Connections that are open.",
            vec![Sample::unlabeled(collector.connections.open() as f64)],
        ),
        counter_family(
            "muxs_connections_total",
            "Connections that were let in.",
            vec![Sample::unlabeled(collector.connections.total())],
        ),
        counter_family(
            "muxs_refused_total",
            "What was refused or cut, by the limit that said so.",
            hits.into(),
        ),
        gauge_family(
            "muxs_draining",
            "Whether the server takes no further calls, and stops when the last has ended.",
            vec![Sample::unlabeled(f64::from(collector.is_draining()))],
        ),
        gauge_family("muxs_build_info", "The version, as a label.", vec![version]),
        gauge_family(
            "process_start_time_seconds",
            "When the server began, in seconds since 1970.",
            vec![Sample::unlabeled(
                started_at.unwrap_or_default().as_secs_f64(),
            )],
        ),
    ]
}

/// The counters of one method, summed over all workers.
struct SummedCounters<'a> {
    id: usize,
    workers: &'a [Arc<WorkerCounters>],
}

impl SummedCounters<'_> {
    fn sum(&self, counter: impl Fn(&MethodCounters) -> &Counter) -> u64 {
        let workers = self.workers.iter();
        workers
            .map(|worker| counter(worker.method(self.id)).get())
            .sum()
    }

    fn latencies(&self) -> Histogram {
        let counts: Vec<_> = (0..=LATENCY_BUCKETS.len())
            .map(|bucket| self.sum(|counters| &counters.latencies[bucket]))
            .collect();
        let nanoseconds = self.sum(|counters| &counters.nanoseconds);
        histogram(&LATENCY_BUCKETS, &counts, nanoseconds as f64 / 1e9)
    }
}

fn labels(method: &Method) -> Vec<LabelPair> {
    vec![
        label("grpc_type", method.shape),
        label("grpc_service", &method.service),
        label("grpc_method", &method.name),
    ]
}
