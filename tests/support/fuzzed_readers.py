"""Give mutants of one kind of file to what reads it, in a process of its own: python fuzzed_readers.py NAME COUNT SEED

NAME is one of `TARGETS`, or `all`. It prints JSON by name: how many mutants there were, how many passed the first
parse, the failures (what a user would see as a traceback, or a file that was changed), and the peak memory in MiB. A
mutant that takes longer than `HANG_S` ends it, with a traceback of where it hangs.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import mutated_bytes
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import requests
import yaml
from exported_forms import as_influx
from rich.console import Console

from crashcast import registry, tables
from crashcast.annotation import answers, label_studio
from crashcast.canonical import json_text
from crashcast.errors import UserError
from crashcast.files import folder_list
from crashcast.history import byte_comparison, files, row_diff
from crashcast.history.diff import read_difference
from crashcast.modeling import model
from crashcast.modeling.algorithms import candidates
from crashcast.params import every_section
from crashcast.params.collect import Collect
from crashcast.params.telemetry import Telemetry
from crashcast.params.tickets import Tickets, TicketSource
from crashcast.params.train import Candidates
from crashcast.review import ledger
from crashcast.review.report import schema
from crashcast.sources.importing import run_import
from crashcast.sources.importing.params_file import describe_import
from crashcast.sources.importing.table_file import read_sheet
from crashcast.sources.prometheus import client
from crashcast.sources.prometheus.chunks import Chunk
from crashcast.sources.prometheus.series import rows as rows_of
from crashcast.sources.tickets import api, saved_records
from crashcast.sources.tickets.outages import merge
from crashcast.sources.tickets.systems import notes
from crashcast.sources.tickets.tickets import parse
from crashcast.versioning import dvc_files, git, outputs, revision
from crashcast.versioning.revision import Revision

HANG_S = 10
GUARD_BYTES = 8 << 30  # of address space: no mutant may take the machine's memory
SHOWN = 20
ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/data/incident_apis"
LATEST = datetime(2026, 12, 31, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Target:
    """A kind of file and what reads it.

    Attributes
    ----------
    name : str
        The file's.
    seeds : callable
        Returns good files.
    mutate : callable
    parses : callable
        Takes the file; raises anything if it does not pass the first parse.
    read : callable
        Takes the file; may raise a UserError.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    parses: Callable[[Path], object]
    read: Callable[[Path], object]


def telemetry_frame() -> pl.DataFrame:
    count = 60
    return pl.DataFrame(
        {
            "timestamp": [START + (n // 3) * HOUR for n in range(count)],
            "server_id": [f"web-{n % 3}" for n in range(count)],
            "cpu_pct": [20.5 + n % 7 for n in range(count)],
            "errors": [n // 3 for n in range(count)],
            "role": ["web" if n % 3 else "db" for n in range(count)],
        }
    )


def incidents_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "incident_id": [f"A-{n}" for n in range(6)],
            "server_id": [f"web-{n % 3}" for n in range(6)],
            "kind": ["crash", "maintenance"] * 3,
            "started_at": [START + n * HOUR for n in range(6)],
            "resolved_at": [START + (n + 1) * HOUR if n else None for n in range(6)],
            "reported_at": [START + n * HOUR for n in range(6)],
            "severity": ["high"] * 6,
            "summary": ["out of memory, again"] * 6,
        }
    )


def coverage_frame() -> pl.DataFrame:
    names = [f"web-{n}" for n in range(3)]
    return pl.DataFrame({"server_id": names, "covered_from": START, "covered_to": START + 99 * HOUR, "group": "web"})


def csvs(frame: pl.DataFrame) -> list[bytes]:
    forms = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%s", "%Y-%m-%d %H:%M:%S+05:30")
    return [frame.write_csv(datetime_format=form).encode() for form in forms]


def parquets(frame: pl.DataFrame) -> list[bytes]:
    found = []
    for arrow in (frame.to_arrow(), frame.with_columns(pl.col("server_id").cast(pl.Categorical)).to_arrow()):
        out = io.BytesIO()
        pq.write_table(arrow, out)
        found.append(out.getvalue())
    return found


def jsons() -> list[bytes]:
    """Return records, and an answer of Prometheus."""
    rows = telemetry_frame().with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
    return [json.dumps({"records": rows}).encode(), prometheus_answers()[0]]


def annotated() -> list[bytes]:
    """Return InfluxDB's annotated CSV."""
    with tempfile.TemporaryDirectory() as folder:
        as_influx(telemetry_frame().select("timestamp", "server_id", "cpu_pct"), Path(folder))
        return [Path(folder, "export.csv").read_bytes()]


def importing(role: str) -> Callable[[Path], None]:
    """Return what imports a mutant as telemetry, incidents or coverage."""
    params = (ROOT / "params.yaml").read_bytes()

    def read(path: Path) -> None:
        project = path.parent.parent / "project"
        if not project.exists():
            (project / "in").mkdir(parents=True)
            (project / "params.yaml").write_bytes(params)
            telemetry_frame().write_csv(project / "in/telemetry.csv")
        given = {"telemetry": Path("in/telemetry.csv"), "incidents": None, "coverage": None} | {role: path}
        run_import.track = run_import.forget = lambda *_: None
        run_import.describe_import = lambda path, section, groups: (path.read_text(), [])  # see read_params
        os.chdir(project)
        try:
            run_import.import_files([given["telemetry"]], given["incidents"], given["coverage"])
        except UserError:
            assert {path.name for path in Path().iterdir()} <= {"data", "in", "params.yaml"}
            assert not [*Path().glob("data/*")]
            assert Path("params.yaml").read_bytes() == params
            raise
        finally:
            shutil.rmtree("data", ignore_errors=True)
            Path("params.yaml").write_bytes(params)
            os.chdir(path.parent)

    return read


def read_table(path: Path) -> None:
    frame = tables.read(path)
    tables.read(path, ["server_id"])
    other = path.parent.parent / "other.parquet"
    if not other.exists():
        tables.write(other, telemetry_frame())
    row_diff.compare(path, other)
    row_diff.compare(other, path)
    assert frame.width
    files._held(path)


def parses_parquet(path: Path) -> None:
    pq.read_schema(path)  # not all metadata: pyarrow ends the process if statistics do not fit their column


SERVERS = {"field": "title", "pattern": r"\b(web|db)-\d+\b"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "pagerduty": {"server": SERVERS, "maintenance": {"title": "planned.*"}, "crash": {"urgency": "high"}},
    "opsgenie": {"server": {"pattern": "^[^.]+", "lowercase": True}, "crash": {"priority": ["P1", "P2"]}},
    "servicenow": {"time_zone": "Europe/Berlin", "server": {"names": {"web-9": "web-1"}}},
    "jira": {
        "server": {"field": ["fields.labels", "Labels"], "pattern": r"(web|db)-\d+"},
        "fields": {"started_at": ["fields.customfield_10050", "fields.created", "Created"]},
        "time_zone": "UTC",
    },
    "table": {"time_zone": "UTC"},
    "notes": {},
}
SECTION = Tickets.read(ROOT / "params.yaml")


def read_saved(system: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        source = TicketSource.model_validate({"type": system, "files": path.name, **SYSTEMS[system]})
        found = parse("ours", source, saved_records.records("ours", source), LATEST)
        merge(found.tickets, SECTION)

    return read


def asked(system: str) -> Callable[[Path], None]:
    """Return what reads a mutant as every answer of a system's API."""
    more = {
        "jira": {"url": "https://jira.example.com", "query": "project = X"},
        "opsgenie": {"server": {"field": "alias"}},
    }
    settings = SYSTEMS[system] | more.get(system, {})

    def read(path: Path) -> None:
        content, left = path.read_bytes(), 50

        def get(self: object, url: str, **options: object) -> requests.Response:
            nonlocal left
            left -= 1
            if left < 0:
                raise UserError("more is asked than there is")
            return response(content)

        requests.Session.get = get  # type: ignore[method-assign,assignment]
        os.environ["OURS_TOKEN"] = "token"
        source = TicketSource.model_validate({"type": system, **settings})
        parse("ours", source, api.records("ours", source, START, START + timedelta(days=60)), LATEST)

    return read


def response(content: bytes) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content, made.url = 200, content, "https://example.com/api"
    return made


def read_prometheus(path: Path) -> None:
    content = path.read_bytes()
    requests.Session.post = lambda *_, **__: response(content)  # type: ignore[method-assign,assignment]
    server = client.Server("http://localhost:9090")
    chunk = Chunk("cpu_pct", "up", START, START + 9 * HOUR, HOUR)
    if b"vector" in content:
        server.is_left_open(START.replace(tzinfo=None))
    rows_of(server.read(chunk), "cpu_pct", COLLECT)


COLLECT = Collect.read(ROOT / "params.yaml")
LABELLING = Telemetry.read(ROOT / "params.yaml").interval


def prometheus_answers() -> list[bytes]:
    series = [
        {
            "metric": {"instance": f"web-{n}:9100", "job": "node"},
            "values": [[1767225600 + 3600 * h, f"{h}.5"] for h in range(9)],
        }
        for n in range(3)
    ]
    data = {"resultType": "matrix", "result": series}
    vector = {"resultType": "vector", "result": [{"metric": {}, "value": [1767225600, "1"]}]}
    error = {"status": "error", "errorType": "bad_data", "error": "too many samples"}
    good = {"status": "success", "data": data, "warnings": ["PromQL info: x"], "stats": {}}
    return [json.dumps(one).encode() for one in (good, good, {"status": "success", "data": vector}, error)]


def read_export(path: Path) -> None:
    found = label_studio.read_export(path, LABELLING)
    merged = answers.merge(found.annotations.clear(), found.annotations)
    answers.consensus(merged)
    answers.agreement(merged)


@cache
def fitted() -> dict[str, tuple[bytes, bytes]]:
    """Return model.skops and model.json of a small model of each algorithm."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(60, 2)).astype(np.float32)
    features = ["cpu_pct", "latency_ms"]
    grids = {
        "one_rule": {"rules": {"latency_ms": 1}},
        "logistic_regression": {"C": [1.0]},
        "hist_gradient_boosting": {
            **{"learning_rate": [0.1], "max_leaf_nodes": [3], "max_iter": 2},
            **{"min_samples_leaf": 5, "l2_regularization": 1.0},
        },
        "extra_trees": {"n_estimators": 2, "min_samples_leaf": [5], "max_features": [0.5]},
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, grid in grids.items():
            for candidate in candidates(Candidates.model_validate({name: grid}), 1, features):
                model.save(model.fit(candidate, features, values, values[:, 0] > 0), Path(folder))
                found[candidate.algorithm] = (
                    Path(folder, "model.skops").read_bytes(), Path(folder, "model.json").read_bytes(),
                )  # fmt: skip
    return found


ROWS = pl.DataFrame({"cpu_pct": [0.0, 1.0, None], "latency_ms": [1.0, 2.0, 3.0]})


def read_model(path: Path) -> None:
    """Load a model's folder, one file of which is the mutant, and score with it."""
    for skops, described in fitted().values():
        if path.name == "model.skops":
            (path.parent / "model.json").write_bytes(described)
        else:
            (path.parent / "model.skops").write_bytes(skops)
        refused = None
        try:
            found = model.load(path.parent)
            assert np.isfinite(found.predict(ROWS)).all()
        except UserError as error:
            refused = error
    if path.name == "model.skops":
        read_difference(path, path, "model.skops")
    if refused:
        raise refused


def parses_skops(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()
        json.loads(archive.read("schema.json"))


def read_lock(path: Path) -> None:
    """Read a dvc.lock as that of a work tree and as that of a commit, with this project's dvc.yaml."""
    content = path.read_bytes()
    with_content({"dvc.lock": content, "dvc.yaml": (ROOT / "dvc.yaml").read_bytes()})
    outputs.outputs_of([Revision("1" * 40)])
    locked = dvc_files.read_lock(path)
    good = dvc_files.read_lock(ROOT / "dvc.lock")
    byte_comparison._causes(good, locked)
    for digest in dvc_files.outs_of(Revision("1" * 40).lock).values():
        dvc_files.object_path(digest)


def read_pointer(path: Path) -> None:
    content = path.read_bytes()
    with_content({"data/raw/telemetry.dvc": content})
    outputs.outputs_of([Revision("1" * 40)])
    dvc_files.object_path(dvc_files.tracked_hash(content, Path("data/raw/telemetry"), "in git"))


def read_pipeline(path: Path) -> None:
    content = path.read_bytes()
    with_content({"dvc.lock": (ROOT / "dvc.lock").read_bytes(), "dvc.yaml": content})
    outputs.outputs_of([Revision("1" * 40)])
    assert Revision("1" * 40).stages is not None


def with_content(contents: dict[str, bytes]) -> None:
    """Let a commit have these files."""
    outputs._options.cache_clear()
    outputs._tree = lambda sha: {name: name for name in contents}
    outputs._blob = contents.__getitem__
    git.tree = lambda sha: sha  # type: ignore[assignment]
    revision._file = lambda sha, name: contents.get(name)  # type: ignore[assignment]


def read_params(path: Path) -> None:
    with_content({"params.yaml": path.read_bytes()})
    before = path.read_bytes()
    every_section.check(path)
    described = describe_import(path, Telemetry.read(ROOT / "params.yaml"))
    assert described
    commit = Revision("1" * 40)
    commit.section(Telemetry)
    assert dict(revision.flatten(commit.params))
    assert before == path.read_bytes()


def read_looks(path: Path) -> None:
    content = path.read_bytes()
    git.run = lambda *_, **__: git.Answer(0, content, "")  # type: ignore[assignment]
    ledger._read("1" * 40)


def read_tag(path: Path) -> None:
    """Read a registered version's tag as it comes from a remote, and list it."""
    registry._model_at = lambda sha: TAGGED["record"]["challenger"]["model"]
    message = f"crash-model v1.0.0\n\nheadline\n\n{path.read_text(errors='surrogateescape')}"
    registration = {"message": message, "tag": "crash-model@v1.0.0"}
    version = {"version": "v1.0.0", "registrations": [registration], "commit_hexsha": "1" * 40, "stages": []}
    ledger.known_verdicts = lambda: {("r" * 64, "c" * 64): "ACCEPT"}
    found = registry._read(version)
    registry.show([found], Console(file=io.StringIO()))
    json_text(registry.as_json([found]))


TAGGED = {"record": json.loads((ROOT / "tests/review_example/record.json").read_bytes()), "forced": None}


def read_list(path: Path) -> None:
    dvc_files.members(path.read_bytes(), "a folder")


def looks() -> list[bytes]:
    entries = [{"challenger": "a" * 64, "policy": "b" * 64, "verdict": "ACCEPT"}, {"challenger": "c" * 64}]
    return [json.dumps({"r" * 64: entries}).encode()]


def listing() -> list[bytes]:
    contents = {f"month=2026-0{n}/part-0.parquet": f"{n}" * 32 for n in range(1, 6)}
    return [folder_list(contents).encode()]


def recorded(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(RECORDED / name).read_bytes() for name in names]


def here(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(ROOT / name).read_bytes() for name in names]


def parses_json(path: Path) -> None:
    json.loads(path.read_bytes())


def parses_csv(path: Path) -> None:
    assert list(saved_records._csv(path))


def parses_yaml(path: Path) -> None:
    yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def ticket_rows() -> list[bytes]:
    return csvs(incidents_frame())


ALERTS = recorded("opsgenie_alerts.json")
TARGETS = {
    "telemetry.csv": Target(
        "telemetry.csv", lambda: csvs(telemetry_frame()), mutated_bytes.as_csv, read_sheet, importing("telemetry")
    ),
    "incidents.csv": Target("incidents.csv", ticket_rows, mutated_bytes.as_csv, read_sheet, importing("incidents")),
    "coverage.csv": Target(
        "coverage.csv",
        lambda: csvs(coverage_frame()),
        mutated_bytes.as_csv,
        read_sheet,
        importing("coverage"),
    ),
    "telemetry.json": Target("telemetry.json", jsons, mutated_bytes.as_json, parses_json, importing("telemetry")),
    "annotated.csv": Target("annotated.csv", annotated, mutated_bytes.as_csv, read_sheet, importing("telemetry")),
    "telemetry.parquet": Target(
        "telemetry.parquet",
        lambda: parquets(telemetry_frame()),
        mutated_bytes.as_parquet,
        parses_parquet,
        importing("telemetry"),
    ),
    "incidents.parquet": Target(
        "incidents.parquet",
        lambda: parquets(incidents_frame()),
        mutated_bytes.as_parquet,
        parses_parquet,
        importing("incidents"),
    ),
    "table.parquet": Target(
        "table.parquet", lambda: parquets(telemetry_frame()), mutated_bytes.as_parquet, parses_parquet, read_table
    ),
    "pagerduty.json": Target(
        "saved.json",
        recorded("pagerduty_incidents.json"),
        mutated_bytes.as_json,
        parses_json,
        read_saved("pagerduty"),
    ),
    "opsgenie.json": Target("saved.json", ALERTS, mutated_bytes.as_json, parses_json, read_saved("opsgenie")),
    "servicenow.json": Target(
        "saved.json", recorded("servicenow_incident.json"), mutated_bytes.as_json, parses_json, read_saved("servicenow")
    ),
    "jira.json": Target(
        "saved.json", recorded("jira_search.json"), mutated_bytes.as_json, parses_json, read_saved("jira")
    ),
    "servicenow.csv": Target(
        "saved.csv", recorded("servicenow_incident.csv"), mutated_bytes.as_csv, parses_csv, read_saved("servicenow")
    ),
    "jira.csv": Target("saved.csv", recorded("jira_export.csv"), mutated_bytes.as_csv, parses_csv, read_saved("jira")),
    "tickets.parquet": Target(
        "saved.parquet",
        lambda: parquets(incidents_frame()),
        mutated_bytes.as_parquet,
        parses_parquet,
        read_saved("table"),
    ),
    "notes.md": Target(
        "note.md",
        recorded("notes/2026/03-02-db-1.md", "notes/2026/03-09-web-racks.md"),
        mutated_bytes.as_text,
        lambda path: list(notes.read(path)),
        read_saved("notes"),
    ),
    "pagerduty answers": Target(
        "answer.json", recorded("pagerduty_incidents.json"), mutated_bytes.as_json, parses_json, asked("pagerduty")
    ),
    "opsgenie answers": Target("answer.json", ALERTS, mutated_bytes.as_json, parses_json, asked("opsgenie")),
    "jira answers": Target(
        "answer.json", recorded("jira_search.json"), mutated_bytes.as_json, parses_json, asked("jira")
    ),
    "prometheus answers": Target(
        "answer.json", prometheus_answers, mutated_bytes.as_json, parses_json, read_prometheus
    ),
    "label studio": Target(
        "export.json", here("tests/data/label_studio/export.json"), mutated_bytes.as_json, parses_json, read_export
    ),
    "model.skops": Target(
        "model.skops",
        lambda: [skops for skops, _ in fitted().values()],
        mutated_bytes.as_skops,
        parses_skops,
        read_model,
    ),
    "model.json": Target(
        "model.json",
        lambda: [described for _, described in fitted().values()],
        mutated_bytes.as_json,
        parses_json,
        read_model,
    ),
    "dvc.lock": Target("dvc.lock", here("dvc.lock"), mutated_bytes.as_yaml, parses_yaml, read_lock),
    "dvc.yaml": Target("dvc.yaml", here("dvc.yaml"), mutated_bytes.as_yaml, parses_yaml, read_pipeline),
    "telemetry.dvc": Target(
        "telemetry.dvc", here("data/raw/telemetry.dvc"), mutated_bytes.as_yaml, parses_yaml, read_pointer
    ),
    "params.yaml": Target("params.yaml", here("params.yaml"), mutated_bytes.as_yaml, parses_yaml, read_params),
    "folder list": Target("list.dir", listing, mutated_bytes.as_json, parses_json, read_list),
    "decision record": Target(
        "record.json", here("tests/review_example/record.json"), mutated_bytes.as_json, parses_json, schema.read
    ),
    "tag": Target("tag.json", lambda: [json.dumps(TAGGED).encode()], mutated_bytes.as_json, parses_json, read_tag),
    "looks.json": Target("looks.json", looks, mutated_bytes.as_json, parses_json, read_looks),
}


def run(name: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Give mutants to a reader."""
    target, seeds = TARGETS[name], TARGETS[name].seeds()
    client.FIRST_PATIENCE_S = client.PATIENCE_S = -1.0  # nobody waits for a scripted server
    api.ATTEMPTS = 1
    os.chdir(folder)
    path = folder / target.name
    whole = 0
    for good in seeds:
        path.write_bytes(good)
        _try(target.parses, path)
        with redirect_stderr(io.StringIO()), suppress(UserError):
            target.read(path)
            whole += 1
    assert whole  # or no mutant would come any further
    known = {one.name for one in folder.iterdir()}
    failures: dict[str, str] = {}
    parsed = 0
    for number in range(count):
        dice = Random(f"{name} {seed} {number}")
        mutant = target.mutate(dice.choice(seeds), dice)
        path.write_bytes(mutant)
        parsed += _try(target.parses, path)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            with redirect_stderr(io.StringIO()):
                target.read(path)
        except UserError:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # Rust's panics are no Exception
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "crashcast" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            failures.setdefault(f"{type(error).__name__} at {place}", f"mutant {number}: {str(error)[:300]}")
        faulthandler.cancel_dump_traceback_later()
        if path.read_bytes() != mutant or {one.name for one in folder.iterdir()} != known:
            failures.setdefault(
                "a file was changed", f"mutant {number}: {sorted(one.name for one in folder.iterdir())}"
            )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "mutants": count,
        "parsed": parsed,
        "failures": dict(list(failures.items())[:SHOWN]),
        "peak_mib": peak_mib,
    }


def _try(parse: Callable[[Path], object], path: Path) -> bool:
    try:
        parse(path)
    except Exception:
        return False
    return True


PATCHED: list[tuple[Any, str]] = [
    *((outputs, name) for name in ("_tree", "_blob")),
    *((git, name) for name in ("tree", "run")),
    *((requests.Session, name) for name in ("get", "post")),
    *((run_import, name) for name in ("track", "forget", "describe_import")),
    *((client, name) for name in ("FIRST_PATIENCE_S", "PATIENCE_S")),
    (api, "ATTEMPTS"),
    (registry, "_model_at"),
    (revision, "_file"),
]


@contextmanager
def restored() -> Iterator[Path]:
    """Give an empty folder, and undo what a target replaced."""
    before = [(holder, name, getattr(holder, name)) for holder, name in PATCHED]
    with tempfile.TemporaryDirectory() as place:
        Path(place, "here").mkdir()
        yield Path(place, "here")
        os.chdir(ROOT)
    for holder, name, value in before:
        setattr(holder, name, value)


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (GUARD_BYTES, GUARD_BYTES))
    found = {}
    for one in TARGETS if sys.argv[1] == "all" else sys.argv[1:2]:
        with restored() as folder:
            found[one] = run(one, int(sys.argv[2]), int(sys.argv[3]), folder)
    print(json.dumps(found))
