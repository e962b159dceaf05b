"""The page about metrics, logs and traces: its commands, unchanged, and its table of alerts."""

import json
import re
import shlex
import shutil

import pytest
from conftest import LOGS, served
from pages import MUXS, REPOSITORY, SERVER, Page, Trial

PAGE = Page("observability.md")
TRY_IT_OUT = Page("observability.md", "Try it out")


@pytest.fixture
def trial(log, tmp_path):
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    command, *_ = TRY_IT_OUT.commands(SERVER)
    flags = command.removeprefix(SERVER).replace("--admin-listen 9090", "--admin-listen :0")
    with served(*shlex.split(flags)) as server:
        admin = server.process.stdout.readline().removeprefix("muxs admin on ").strip()
        yield Trial(tmp_path, server, {"http://127.0.0.1:9090": admin})
        server.stop()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_metrics_and_readiness_are_served(trial):
    [put] = TRY_IT_OUT.commands(MUXS)
    assert trial.run(put).returncode == 0
    metrics, ready = (trial.run(command).stdout for command in TRY_IT_OUT.commands("curl"))
    uploads = [line for line in metrics.splitlines() if 'grpc_method="WriteStream"' in line]
    [uploads] = [line for line in uploads if line.startswith("grpc_server_handled_total") and '"OK"' in line]
    assert float(uploads.split()[-1]) == 1
    assert ready.strip() == "ready"


def test_log_has_a_line_with_the_fields_of_the_page(log, tmp_path):
    [command] = [command for command in TRY_IT_OUT.commands("RUST_LOG=") if SERVER in command]
    variable, _, flags = command.partition(" " + SERVER)
    name, _, value = variable.partition("=")
    (tmp_path / "a.txt").write_text("text")
    with served(*shlex.split(flags), log=LOGS / "page.log", **{name: value}) as server:
        assert Trial(tmp_path, server, {}).run(MUXS + "put a.txt").returncode == 0
        server.stop()
    entries = [json.loads(line) for line in (LOGS / "page.log").read_text().splitlines()]
    [upload] = [entry for entry in entries if entry["fields"].get("call") == "muxs.FileController/WriteStream"]
    [example] = map(json.loads, PAGE.blocks("json"))
    # Only where tokens are required is there a subject.
    assert example["fields"].keys() - {"subject"} == upload["fields"].keys()
    explained = PAGE.first_column("field")
    assert upload["fields"].keys() - {"message"} <= set(explained)


def test_rows_and_panels_are_those_of_the_dashboard():
    panels = json.loads((REPOSITORY / "deploy" / "grafana-dashboard.json").read_text())["panels"]
    titles = [panel["title"] for panel in panels]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    named = re.findall(r"\*([^*\n]+)\*", PAGE.text)
    assert named[: len(rows)] == rows
    assert len(named) > len(rows) + 5
    assert set(named) <= set(titles)


def test_every_alert_is_explained():
    alerts = re.findall(r"- alert: (\w+)", (REPOSITORY / "deploy" / "alerts.yml").read_text())
    assert len(alerts) > 5
    assert PAGE.first_column("alert") == alerts
