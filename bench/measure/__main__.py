"""`python -m measure`: runs the selected works and writes their results. `bench/run` passes all paths."""

import argparse
import importlib.util
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import plot, table
from .clients import Clients
from .peers import PEERS, REPOSITORY, Peer, Places, muxs_without, other_muxs, versions
from .process import allow_open_files
from .results import MUXS, CaseResult, Results, WorkResult, machine, today
from .rounds import Row, measure
from .target import Bench
from .works import FULL, SMOKE, Case, Work, ablation, works

DISK = REPOSITORY / "target"
MEMORY = Path("/dev/shm")


def main() -> int:
    # SIGTERM stops the servers as well, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = parse()
    allow_open_files()
    server_core, client_core, pinning = cores()
    places = Places(
        muxs=arguments.muxs,
        tools=arguments.tools,
        cpp=arguments.cpp,
        python=arguments.python,
        nginx=arguments.nginx,
    )
    peers = {key: peer for key, peer in PEERS.items() if not arguments.peers or key in arguments.peers}
    peers |= {key: muxs_without(key, program) for key, program in arguments.without}
    peers |= {key: other_muxs(key, program) for key, program in arguments.beside}
    builds = [key for key, _ in arguments.beside]
    skipped = find_absent(peers, places, dict(arguments.skip))
    results = Results(
        date=today(),
        command=arguments.command_line,
        seed=arguments.seed,
        rounds=arguments.rounds,
        machine=machine(pinning),
        versions=versions(places),
    )
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-data-", dir=DISK) as disk,
        tempfile.TemporaryDirectory(prefix="muxs-bench-", dir=MEMORY) as memory,
    ):
        clients = Clients(load_program=f"{arguments.tools}/load", scratch=Path(memory), core=client_core)
        bench = Bench(places, clients, server_core, disk=Path(disk), memory=Path(memory))
        order = random.Random(arguments.seed)
        scale = SMOKE if arguments.smoke else FULL
        levers = [key for key, _ in arguments.without]
        for work in ablation(scale, levers) if levers else works(scale):
            if arguments.only.search(work.key):
                results.works.append(run(work, bench, peers, builds, skipped, arguments.rounds, order))
    results.minutes = (time.monotonic() - started) / 60
    write(results, arguments.results)
    return 1 if results.failed() else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="measure")
    parser.add_argument("--muxs", required=True, help="the server that is measured")
    parser.add_argument("--tools", required=True, help="the folder of load, floor, stock, constant and token")
    parser.add_argument("--cpp", required=True, help="the folder of the server and the client of gRPC C++")
    parser.add_argument("--python", required=True, help="the Python that has grpcio")
    parser.add_argument("--nginx", required=True)
    parser.add_argument("--results", required=True, type=Path, help="the folder to write to")
    parser.add_argument("--command-line", required=True, help="what this run is a part of, for the table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the order in the rounds")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="works whose key has this in it")
    parser.add_argument("--peers", type=lambda keys: keys.split(","), default=[], help="peers, by their keys")
    parser.add_argument("--smoke", action="store_true", help="only show that everything works")
    parser.add_argument(
        "--skip",
        type=lambda pair: pair.split("=", 1),
        action="append",
        default=[],
        metavar="PEER=WHY",
        help="a peer that could not be made",
    )
    parser.add_argument(
        "--without",
        type=lambda pair: pair.split("=", 1),
        action="append",
        default=[],
        metavar="LEVER=SERVER",
        help="measure muxs beside itself without a lever, instead of beside others",
    )
    parser.add_argument(
        "--beside",
        type=lambda pair: pair.split("=", 1),
        action="append",
        default=[],
        metavar="NAME=SERVER",
        help="measure another build of muxs, too, wherever muxs is measured",
    )
    arguments = parser.parse_args()
    for key in arguments.peers:
        if key not in PEERS:
            parser.error(f"there is no peer {key}; there are {', '.join(PEERS)}")
    for key, _ in arguments.beside:
        if key in PEERS:
            parser.error(f"there is a peer {key} already")
    if not any(arguments.only.search(work.key) for work in works(FULL)):
        parser.error(f"there is no such work; there are {', '.join(work.key for work in works(FULL))}")
    return arguments


def cores() -> tuple[int | None, int | None, str]:
    """Returns the core of the servers, that of the clients, and a sentence for the table."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sentence = "There is one core only, which servers and clients share."
        print(f"NOT PINNED: {sentence}", file=sys.stderr)
        return None, None, sentence
    server, client = usable[:2]
    sentence = f"Servers run on core {server}, clients on core {client}, over TCP with {congestion_control()}."
    return server, client, sentence


def congestion_control() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def find_absent(peers: Mapping[str, Peer], places: Places, reasons: Mapping[str, str]) -> dict[str, str]:
    """Returns the peers that are left out, each with the reason."""
    skipped = {}
    for key, peer in peers.items():
        if reason := reasons.get(key) or peer.find_missing(places):
            skipped[key] = reason
            print(f"SKIPPED: {peer.title}: {reason}", file=sys.stderr)
    return skipped


def run(
    work: Work,
    bench: Bench,
    peers: Mapping[str, Peer],
    builds: Sequence[str],
    skipped: Mapping[str, str],
    rounds: int,
    order: random.Random,
) -> WorkResult:
    figures = work.cases[0].task.figures
    shown = WorkResult(work.key, work.title, work.note, figures, [], work.parts_of_muxs, work.floor)
    for case in work.cases:
        name = f"{work.title}: {case.name}"
        print(f"==> {name}", file=sys.stderr)
        # Other builds of muxs come after muxs.
        keys = [key for peer in case.peers for key in ((peer, *builds) if peer == MUXS else (peer,))]
        rows = [Row(key, peers[key].title, skipped=skipped.get(key)) for key in keys if key in peers]
        measure_case(name, case, bench, peers, rows, rounds, order)
        shown.cases.append(CaseResult(case.name, case.plotted, rows))
    return shown


def measure_case(
    name: str,
    case: Case,
    bench: Bench,
    peers: Mapping[str, Peer],
    rows: Sequence[Row],
    rounds: int,
    order: random.Random,
) -> None:
    """Measures the available peers of a case, if its client is available."""
    client = bench.clients.load_program if case.task.client == "load" else case.task.client
    contenders = []
    for row in rows:
        if not row.skipped and not shutil.which(client):
            row.skipped = f"there is no {case.task.client}"
            print(f"SKIPPED: {row.title} in {name}: {row.skipped}", file=sys.stderr)
        if not row.skipped:
            row.version = peers[row.peer].version(bench.places)
            contenders.append((peers[row.peer], row))
    measure(name, case, bench, contenders, min(rounds, case.rounds_at_most), order)


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.to_json())
    written = table.markdown(results)
    (folder / "table.md").write_text(written)
    print(written)
    if importlib.util.find_spec("matplotlib"):
        plot.draw(results, folder / "plot.svg")
    else:
        print("SKIPPED: the plot, for there is no matplotlib", file=sys.stderr)
    print(f"It is in {folder}.", file=sys.stderr)


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit("It was told to stop: nothing is written.")
