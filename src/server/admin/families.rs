//! The server's metrics by name. `docs/metrics.md` lists them for people.

use std::{sync::Arc, time::SystemTime};

use tonic::Code;

use super::collector::Collector;
use crate::{
    counter::Counter,
    metric_family::{Distribution, Family, Label, Sample},
    server::{
        calls::{Method, metric_name},
        metrics::{CODE_COUNT, LATENCY_BUCKETS, Limit, MethodCounters, WorkerCounters},
    },
};

/// The metrics of calls. Names and labels are those of go-grpc-prometheus, which dashboards know.
pub(super) fn calls(collector: &Collector) -> Vec<Family> {
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
        Family::counters(name, help, samples.collect())
    };
    let handled = methods.iter().flat_map(|(method, summed)| {
        let codes =
            (0..CODE_COUNT).map(|code| (code, summed.sum(|counters| &counters.handled[code])));
        codes
            .filter(|(code, count)| *count > 0 || (method.is_known() && *code == Code::Ok as usize))
            .map(|(code, value)| {
                let code = ("grpc_code", metric_name(Code::from(code as i32)).to_owned());
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
            "Calls that were started.",
            |counters| &counters.started,
        ),
        Family::counters(
            "grpc_server_handled_total",
            "Calls that have ended, by status code.",
            handled.collect(),
        ),
        counters(
            "grpc_server_msg_received_total",
            "Request messages that handlers have received.",
            |counters| &counters.messages_received,
        ),
        counters(
            "grpc_server_msg_sent_total",
            "Response messages that were sent.",
            |counters| &counters.messages_sent,
        ),
        Family::histograms(
            "grpc_server_handling_seconds",
            "Duration of calls, from their headers to their end.",
            latencies.collect(),
        ),
    ]
}

/// The metrics of connections, limits and the process.
pub(super) fn server(collector: &Collector) -> Vec<Family> {
    let hits = Limit::ALL.map(|limit| Sample {
        labels: vec![("limit", limit.name().to_owned())],
        value: collector.hits.get(limit),
    });
    let version = Sample {
        labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
        value: 1.0,
    };
    let started_at = collector.started_at.duration_since(SystemTime::UNIX_EPOCH);
    vec![
        Family::gauges(
            "muxs_connections",
            "Open connections.",
            vec![Sample::unlabeled(collector.connections.open() as f64)],
        ),
        Family::counters(
            "muxs_connections_total",
            "Connections that were accepted.",
            vec![Sample::unlabeled(collector.connections.total())],
        ),
        Family::counters(
            "muxs_refused_total",
            "Connections, calls, messages and uploads that were refused or ended by a limit.",
            hits.into(),
        ),
        Family::gauges(
            "muxs_draining",
            "1 while the server shuts down, otherwise 0.",
            vec![Sample::unlabeled(f64::from(collector.is_draining()))],
        ),
        Family::gauges(
            "muxs_build_info",
            "The version of the server, as a label.",
            vec![version],
        ),
        Family::gauges(
            "process_start_time_seconds",
            "Start time of the server, in seconds since 1970.",
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

    fn latencies(&self) -> Distribution {
        let buckets = 0..=LATENCY_BUCKETS.len();
        let counts = buckets.map(|bucket| self.sum(|counters| &counters.latencies[bucket]));
        Distribution {
            bounds: &LATENCY_BUCKETS,
            counts: counts.collect(),
            sum: self.sum(|counters| &counters.nanoseconds) as f64 / 1e9,
        }
    }
}

fn labels(method: &Method) -> Vec<Label> {
    vec![
        ("grpc_type", method.shape.to_owned()),
        ("grpc_service", method.service.clone()),
        ("grpc_method", method.name.clone()),
    ]
}
