"""Which rows two models are judged on, and with which history: small tables that a person can check by eye."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import code_hash
from crashcast.files import md5
from crashcast.modeling import model, split_rule
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.algorithms import logistic_regression
from crashcast.modeling.model import Model, load, save
from crashcast.review import look_ahead, rescoring, retraining, scoring, stage_runs, test_set
from crashcast.review.data_changes import (
    ADDED,
    CHANGED,
    REMOVED,
    History,
    judged_coverage,
    judged_incidents,
    judged_operation,
    judged_sources,
    partition_of,
)
from crashcast.review.report.plot_data import draw
from crashcast.review.rescoring import (
    ScoredRows,
    rescore,
)
from crashcast.review.test_set import GroundTruth, ScoredModel, kind_of, longest_open
from crashcast.versioning import cache
from crashcast.versioning.revision import COVERAGE, INCIDENTS, TELEMETRY, TICKET_SOURCES, Revision

HOUR = timedelta(hours=1)


def at(day: int, hour: int = 0, month: int = 1) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def naive(day: int, hour: int = 0, month: int = 1) -> datetime:
    return at(day, hour, month).replace(tzinfo=None)


class TestLongestOpen:
    WHOLE = naive(10), naive(20)

    @pytest.mark.parametrize(
        ("closed", "expected"),
        [
            ([], (10, 20)),
            ([(1, 10)], (10, 20)),
            ([(1, 12)], (12, 20)),
            ([(18, 25)], (10, 18)),
            ([(12, 14)], (14, 20)),
            ([(16, 18)], (10, 16)),
            ([(11, 13), (12, 15), (19, 20)], (15, 19)),
        ],
    )
    def test_what_is_left(self, closed: list[tuple[int, int]], expected: tuple[int, int]) -> None:
        found = longest_open(self.WHOLE, [(naive(start), naive(end)) for start, end in closed])
        assert found == (naive(expected[0]), naive(expected[1]))

    def test_nothing_is_left(self) -> None:
        start, end = longest_open(self.WHOLE, [(naive(1), naive(15)), (naive(15), naive(30))])
        assert start >= end

    @given(st.lists(st.tuples(st.integers(1, 27), st.integers(1, 27)).map(sorted)))
    def test_it_touches_nothing_closed_and_lies_inside(self, spans: list[list[int]]) -> None:
        closed = [(naive(start), naive(end)) for start, end in spans]
        start, end = longest_open(self.WHOLE, closed)
        if start < end:
            assert self.WHOLE[0] <= start
            assert end <= self.WHOLE[1]
            assert all(until <= start or end <= since or since == until for since, until in closed)


def periods(train: int, validation: int, test: int, end: int) -> dict:
    """Return a split by time: parts begin on these days of January, and end 12 hours before the next begins."""
    spans = {
        "train": (naive(train), naive(validation) - 12 * HOUR),
        "validation": (naive(validation), naive(test) - 12 * HOUR),
        "test": (naive(test), naive(end)),
    }
    return {
        "method": "time",
        "periods": {part: {"from": since.isoformat(), "to": to.isoformat()} for part, (since, to) in spans.items()},
    }


def by_server(train: list[str], validation: list[str], test: list[str]) -> dict:
    span = {"from": naive(1).isoformat(), "to": naive(28).isoformat()}
    servers = {"train": train, "validation": validation, "test": test}
    return {"method": "server", "servers": servers, "periods": dict.fromkeys(servers, span)}


class TestKindOfRows:
    RULE = periods(1, 10, 15, 20)

    @pytest.mark.parametrize(
        ("days", "kind"),
        [
            ([15, 19], "own"),
            ([20, 27], "later"),
            ([19, 20], "own and later"),
            ([14, 16], "other"),
        ],
    )
    def test_by_time(self, days: list[int], kind: str) -> None:
        assert kind_of(rows_at(days), self.RULE) == kind

    def test_by_server(self) -> None:
        rule = by_server(["a"], ["b"], ["c"])
        assert kind_of(rows_at([3], "c"), rule) == "own"
        assert kind_of(rows_at([3], "d"), rule) == "other"


def rows_at(days: list[int], server: str = "a") -> pl.DataFrame:
    return pl.DataFrame(
        {"timestamp": [at(day) for day in days], "server_id": server, "label": 0},
        schema={**tables.KEYS, "label": pl.Int8},
    ).with_columns(pl.col("server_id").cast(pl.Categorical))


class Rules:
    """Stands where a commit's rules are asked for: labels reach ahead, and are unknown after an outage."""

    def __init__(self, embargo: timedelta) -> None:
        self.reach, self.recovery = embargo * 3 / 4, embargo / 4

    def section(self, _: object) -> Rules:
        return self


def model_with(rule: dict, embargo: timedelta = 12 * HOUR) -> ScoredModel:
    return ScoredModel(Rules(embargo), "", rule)  # type: ignore[arg-type]


class TestTestSet:
    def reasons(self, rows: test_set.TestSet, days: list[float], server: str = "a") -> list[str | None]:
        moments = [at(1) + timedelta(days=day - 1) for day in days]
        return rows.reasons(pl.DataFrame({"timestamp": moments, "server_id": server})).to_list()

    def test_rows_that_either_model_was_trained_on_are_left_out_by_reason(self) -> None:
        champion, challenger = periods(1, 10, 15, 20), periods(5, 12, 14, 20)
        found = test_set.TestSet.of(
            challenger, {"champion": model_with(champion), "challenger": model_with(challenger)}
        )
        assert found.period == (naive(15), naive(20))
        assert self.reasons(found, [14, 14.4, 14.6, 14.9, 15, 19.9]) == [
            "in the champion's validation part",
            "in the champion's validation part",
            "within the embargo of the champion's validation part",
            "within the embargo of the champion's validation part",
            None,
            None,
        ]

    def test_rows_before_a_part_that_their_labels_reach_into_are_left_out(self) -> None:
        """The challenger was trained on later data, and the champion's test part lies before it."""
        champion, challenger = periods(1, 3, 5, 20), periods(15, 17, 19, 20)
        found = test_set.TestSet.of(champion, {"champion": model_with(champion), "challenger": model_with(challenger)})
        assert found.period == (naive(5), naive(14, 12))
        assert self.reasons(found, [14.4, 14.6, 15, 16.6, 17]) == [
            None,
            "within the embargo of the challenger's train part",
            "in the challenger's train part",
            "within the embargo of the challenger's train part",
            "in the challenger's validation part",
        ]

    def test_the_longest_embargo_holds_for_all(self) -> None:
        rule = periods(1, 10, 15, 20)
        models = {"champion": model_with(rule, 48 * HOUR), "challenger": model_with(rule, HOUR)}
        assert test_set.TestSet.of(rule, models).period == (naive(16, 12), naive(20))

    def test_servers_that_either_model_was_trained_on_are_left_out(self) -> None:
        rule = by_server(["a"], ["b"], ["c", "d"])
        models = {"champion": model_with(by_server(["d"], ["b"], ["a", "c"])), "challenger": model_with(rule)}
        found = test_set.TestSet.of(rule, models)
        assert not found.is_empty
        assert self.reasons(found, [3], "c") == [None]
        assert self.reasons(found, [3], "d") == ["on a server of the champion's train part"]
        crashes = pl.DataFrame({"server_id": ["a", "c", "d"], "started_at": at(3)})
        assert found.crashes(crashes)["server_id"].to_list() == ["c"]

    def test_a_period_without_length_is_empty(self) -> None:
        rule = periods(1, 10, 15, 20)
        assert test_set.TestSet(rule, (naive(15), naive(15)), [], {}).is_empty
        assert not test_set.TestSet(rule, (naive(15), naive(15, 1)), [], {}).is_empty

    def test_a_test_part_inside_the_others_training_leaves_nothing(self) -> None:
        challenger = periods(1, 3, 5, 8)
        models = {"champion": model_with(periods(1, 10, 15, 20)), "challenger": model_with(challenger)}
        assert test_set.TestSet.of(challenger, models).is_empty


class TestScoring:
    """Scores of a model that returns the probability of its only feature's log-odds."""

    def table(self, folder: Path, frame: pl.DataFrame) -> None:
        tables.write(folder / "month=2026-01" / tables.FILE_NAME, frame)

    @pytest.fixture
    def trained(self, tmp_path: Path) -> Path:
        x = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
        ((settings, estimator),) = logistic_regression.build(logistic_regression.SMALLEST, 1, ["x"])
        estimator.fit(x, [0, 0, 1, 1])
        folder = tmp_path / "model"
        folder.mkdir()
        save(Model(estimator, "logistic_regression", settings, ["x"], 0.0, threshold=0.5), folder)
        return folder

    @pytest.mark.parametrize("piece_rows", [1_000_000, 2])
    def test_scores_go_to_their_rows_whatever_other_rows_the_features_have(
        self, trained: Path, tmp_path: Path, piece_rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scoring, "PIECE_ROWS", piece_rows)
        keys = [(at(1, 1), "a"), (at(1, 1), "b"), (at(1, 2), "a"), (at(1, 3), "a"), (at(1, 3), "b")]
        wanted = [True, True, False, True, True]
        rows = pl.DataFrame(
            {"timestamp": [key[0] for key in keys], "server_id": [key[1] for key in keys], "wanted": wanted}
        )
        values = pl.DataFrame(
            {
                "timestamp": [at(1, 0), at(1, 1), at(1, 2), at(1, 3), at(1, 3), at(1, 4)],
                "server_id": ["a", "b", "a", "a", "c", "a"],
                "x": np.array([9, 0, 1, 2, 3, 9], dtype=np.float32),
            }
        )
        self.table(tmp_path / "rows", rows)
        self.table(tmp_path / "features", values)
        self.table(tmp_path / "same", rows.with_columns(x=pl.Series([0, 1, 2, 3, 4], dtype=pl.Float32)))
        (tmp_path / "scores").mkdir()

        figures = scoring.score(trained, tmp_path / "features", tmp_path / "rows", tmp_path / "scores")
        found = np.load(tmp_path / "scores" / "month=2026-01.npy")
        assert np.isnan(found).tolist() == [True, False, False, True]  # (1, a) and (3, b) have no features
        assert found[1] < 0.5 < found[2]
        assert figures["latency_ms"] > 0

        scoring.score(trained, tmp_path / "same", tmp_path / "rows", tmp_path / "scores")
        found = np.load(tmp_path / "scores" / "month=2026-01.npy")
        assert (np.diff(found) > 0).all()
        assert len(found) == 4

    def test_corrections_by_server_are_part_of_the_scores(self, trained: Path, tmp_path: Path) -> None:
        model = replace(load(trained), local={"b": 2.0})
        save(model, trained)
        keys = pl.DataFrame({"timestamp": [at(1)] * 3, "server_id": ["a", "b", "c"], "wanted": [True] * 3})
        values = keys.with_columns(x=pl.Series([1, 1, 1], dtype=pl.Float32))
        self.table(tmp_path / "rows", keys)
        self.table(tmp_path / "features", values)
        scoring.score(trained, tmp_path / "features", tmp_path / "rows", tmp_path / "scores")
        found = np.load(tmp_path / "scores" / "month=2026-01.npy")
        assert found.tolist() == model.predict(values).tolist()
        assert found[0] == found[2] < found[1]


SERVERS = pl.DataFrame({"server_id": ["a", "b"], "known_to": [at(10), at(10)]})


FIFTH = at(5)


def ticket(number: int, server: str = "a", start: datetime = FIFTH, **values: object) -> dict:
    row = {"incident_id": f"INC-{number}", "server_id": server, "kind": "crash", "started_at": start,
           "resolved_at": start + HOUR, "reported_at": start + HOUR / 2, "severity": "sev1", "source": "pager",
           "summary": "down"}  # fmt: skip
    return row | values


def tickets(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=tables.INCIDENTS)


class TestIncidents:
    """The base knew everything until 10 January."""

    def judged(self, old: list[dict], new: list[dict]) -> tuple[list[dict], dict[str, list[str]]]:
        frame, notes = judged_incidents(tickets(*old), tickets(*new), SERVERS, 4 * HOUR)
        told = {what: rows["record"].to_list() for (what,), rows in notes.group_by("what")}
        return frame.to_dicts(), told

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            pytest.param([], [ticket(1, start=at(11))], id="a later crash"),
            pytest.param([], [ticket(1, start=at(9), reported_at=at(10))], id="reported after the base's records end"),
            pytest.param([], [ticket(1, start=at(9, 20), reported_at=None)], id="might have been reported after"),
            pytest.param([ticket(1, resolved_at=None)], [ticket(1, resolved_at=at(11))], id="closed since"),
            pytest.param(
                [ticket(1, kind="maintenance", start=at(12))],
                [ticket(1, kind="maintenance", start=at(15))],
                id="planned and moved",
            ),
            pytest.param([ticket(1, kind="maintenance", start=at(12))], [], id="planned and dropped"),
            pytest.param([ticket(1)], [ticket(1, summary="no power")], id="described otherwise"),
        ],
    )
    def test_what_the_base_could_not_know_is_no_correction(self, old: list[dict], new: list[dict]) -> None:
        assert self.judged(old, new) == (new, {})

    @pytest.mark.parametrize(
        ("old", "new", "what"),
        [
            pytest.param([ticket(1)], [], REMOVED, id="removed"),
            pytest.param([], [ticket(1)], ADDED, id="added"),
            pytest.param([], [ticket(1, start=at(9, 12), reported_at=None)], ADDED, id="added, undated"),
            pytest.param([ticket(1)], [ticket(1, start=at(6))], CHANGED, id="moved"),
            pytest.param([ticket(1)], [ticket(1, start=at(11))], CHANGED, id="moved out of the base's time"),
            pytest.param([ticket(1)], [ticket(1, "b")], CHANGED, id="on another server"),
            pytest.param([ticket(1)], [ticket(1, kind="maintenance")], CHANGED, id="of another kind"),
            pytest.param([ticket(1)], [ticket(1, resolved_at=at(8))], CHANGED, id="longer"),
            pytest.param([ticket(1, resolved_at=None)], [ticket(1)], CHANGED, id="closed in the base's time"),
        ],
    )
    def test_corrections_are_told_and_undone(self, old: list[dict], new: list[dict], what: str) -> None:
        assert self.judged(old, new) == (old, {what: ["INC-1"]})


def covered(*spans: tuple[str, datetime, datetime, str | None]) -> pl.DataFrame:
    return pl.DataFrame(spans, schema=tables.COVERAGE, orient="row")


def recorded(*periods: tuple) -> pl.DataFrame:
    return pl.DataFrame(periods, schema=tables.TICKET_SOURCES, orient="row")


def acted(*rows: tuple[str, datetime, datetime]) -> pl.DataFrame:
    """Lay (server, at, reported) out as actions."""
    named = [(server, "restart", done, None, "cli", reported) for server, done, reported in rows]
    return pl.DataFrame(named, schema=tables.ACTIONS, orient="row").sort(tables.ACTION_KEY)


class TestActions:
    OLD = acted(("a", at(3), at(3)), ("b", at(5), at(6)))

    def judged(self, new: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, list[str]]]:
        """Return the actions, and what is told of each server; the base's data ends on the 10th."""
        judged, notes = judged_operation(self.OLD, new, tables.ACTION_KEY, "reported_at", at(10))
        return judged, dict(notes.group_by("server_id").agg(pl.col("what").sort()).sort("server_id").iter_rows())

    def test_what_is_reported_later_is_no_correction(self) -> None:
        before = self.OLD.select("server_id", "at", "reported_at").rows()
        new = acted(*before, ("a", at(9), at(11)), ("a", at(12), at(12)))
        judged, told = self.judged(new)
        assert judged.equals(new)
        assert told == {}

    def test_what_was_known_otherwise_is_told_and_undone(self) -> None:
        judged, told = self.judged(acted(("a", at(3), at(4)), ("c", at(7), at(7)), ("c", at(8), at(12))))
        assert judged.equals(acted(*self.OLD.select("server_id", "at", "reported_at").rows(), ("c", at(8), at(12))))
        assert told == {"a": [ADDED, REMOVED], "b": [REMOVED], "c": [ADDED]}


class TestTicketSources:
    OLD = recorded(("pager", at(1), at(10)), ("phone", at(5), at(8)))

    def judged(self, new: pl.DataFrame, old: pl.DataFrame = OLD) -> tuple[pl.DataFrame, dict[str, list[str]]]:
        """Return the periods, and what is told of each system; the base's data ends on the 10th and names three."""
        judged, notes = judged_sources(old, new, ["pager", "phone", "mail"], (at(1), at(10)))
        return judged, dict(notes.group_by("server_id").agg(pl.col("what").unique()).iter_rows())

    @pytest.mark.parametrize(
        "new",
        [
            recorded(("pager", at(1), at(10)), ("phone", at(5), at(8))),
            recorded(("pager", at(1), at(20)), ("phone", at(5), at(8)), ("phone", at(15), at(20))),
            recorded(("jira", at(12), at(20)), ("pager", at(1), at(10)), ("phone", at(5), at(20))),
            recorded(("mail", at(1), at(20)), ("pager", at(1), at(10)), ("phone", at(5), at(8))),
        ],
        ids=["the same", "they went on", "a system was adopted", "one that recorded all the time went on"],
    )
    def test_records_that_go_on_are_no_correction(self, new: pl.DataFrame) -> None:
        judged, told = self.judged(new)
        assert judged.equals(new)
        assert told == {}

    def test_less_and_more_of_the_past_are_corrections(self) -> None:
        judged, told = self.judged(recorded(("phone", at(1), at(20))))
        assert judged.equals(recorded(("pager", at(1), at(10)), ("phone", at(5), at(20))))
        assert told == {"pager": [REMOVED], "phone": [CHANGED]}

    def test_one_that_recorded_all_the_time_did_until_the_base_ends(self) -> None:
        for begins, expected, what in ((9, [(1, 20)], CHANGED), (12, [(1, 10), (12, 20)], REMOVED)):
            judged, told = self.judged(recorded(("mail", at(begins), at(20))), recorded())
            assert judged.equals(recorded(*(("mail", at(since), at(until)) for since, until in expected)))
            assert told == {"mail": [what]}

    def test_of_one_that_the_base_did_not_know_only_what_is_new_counts(self) -> None:
        judged, told = self.judged(recorded(("jira", at(8), at(20))), recorded())
        assert judged.equals(recorded(("jira", at(10), at(20))))
        assert told == {"jira": [CHANGED]}


class TestCoverage:
    OLD = covered(("a", at(1), at(10), "web"), ("b", at(1), at(10), None))

    def test_records_that_go_on_are_no_correction(self) -> None:
        new = covered(("a", at(1), at(20), "web"), ("b", at(1), at(20), None), ("c", at(12), at(20), "db"))
        judged, notes, known_to = judged_coverage(self.OLD, new)
        assert judged.equals(new)
        assert notes.is_empty()
        assert known_to.filter(server_id="c")["known_to"].to_list() == [at(10)]

    def test_less_coverage_another_group_and_a_server_from_before_are_corrections(self) -> None:
        new = covered(("a", at(3), at(20), "db"), ("c", at(5), at(20), None))
        judged, notes, _ = judged_coverage(self.OLD, new)
        assert judged.equals(
            covered(("a", at(1), at(20), "web"), ("b", at(1), at(10), None), ("c", at(10), at(20), None))
        )
        told = dict(notes.group_by("server_id").agg(pl.col("what").unique()).iter_rows())
        assert told == {"a": [CHANGED], "b": [REMOVED], "c": [CHANGED]}


PARAMS = {
    "telemetry": {"interval": "1h", "partition": "month", "metrics": {"cpu_pct": {"min": 0, "max": 100}}},
    "incidents": {"reporting_delay": "4h", "unresolved_outage": "24h"},
    "label": {"lead": "1h", "horizon": "6h", "recovery": "2h"},
    "alarms": {"false_alarms_per_server_day": 0.1},
}
STAGES = {"label": "data/labels", "featurize": "data/features", "split": "data/split.json", "train": "models"}
EVALUATION = "metrics/evaluate.json"


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty repository with a cache as DVC has it."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch=main")
    Path(".dvc").mkdir()
    Path(".gitignore").write_text("/.dvc/cache\n/made*\n")
    # a commit whose models this process may run
    shutil.copy(code_hash.SRC.parent / "requirements.txt", ".")
    for file in code_hash.closure([Path(model.__file__)]):
        copy = Path("src", file.relative_to(code_hash.SRC))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tmp_path


def hold(frames: dict[str, pl.DataFrame]) -> str:
    """Put a table into the cache."""
    listing = {}
    for name, frame in frames.items():
        tables.write(Path("made"), frame)
        listing[f"{name}/{tables.FILE_NAME}"] = cache.hold(Path("made"))
    return cache.hold_folder(listing)


def hold_file(content: object) -> str:
    if isinstance(content, pl.DataFrame):
        tables.write(Path("made"), content)
    else:
        Path("made").write_text(json.dumps(content))
    return cache.hold(Path("made"))


def telemetry(month: int, days: range, servers: str = "ab", **changed: float) -> pl.DataFrame:
    """Return a row per server and day; CPU is the day, and what is `changed` on server a on that day (d5=50)."""
    rows = [
        {"timestamp": at(day, month=month), "server_id": server,
         "cpu_pct": float(changed.get(f"d{day}", day)) if server == "a" else float(day)}
        for day in days for server in servers
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={**tables.KEYS, "cpu_pct": pl.Float64})


def commit(
    months: dict[str, pl.DataFrame],
    incidents: pl.DataFrame | None = None,
    coverage: pl.DataFrame | None = None,
    made: dict[str, str] | None = None,
    figures: dict | None = None,
    sources: pl.DataFrame | None = None,
    featurized: str = "featurize",
    **sections: dict,
) -> Revision:
    """Commit raw data, parameters, and a dvc.lock that says what came of them; in older commits without `sources`.

    Of commits whose features are made by the same command, `featurized`, the base's count.
    """
    raw = {
        TELEMETRY: hold(months),
        INCIDENTS: hold_file(tickets() if incidents is None else incidents),
        COVERAGE: hold_file(covered(("a", at(1), at(28), "web"), ("b", at(1), at(28), "db")) if coverage is None
                            else coverage),
    }  # fmt: skip
    if sources is not None:
        raw[TICKET_SOURCES] = hold_file(sources)
    for path, digest in raw.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{path}.dvc").write_text(yaml.safe_dump({"outs": [{"md5": digest, "path": Path(path).name}]}))
    params = PARAMS | sections
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("metrics").mkdir(exist_ok=True)
    Path(EVALUATION).write_text(json.dumps(figures or {"rows": 0}))
    commands = dict(zip(STAGES, STAGES, strict=True)) | {"featurize": featurized}
    pipeline = {
        name: {"cmd": commands[name], "deps": list(raw), "params": ["label"], "outs": [path]}
        for name, path in STAGES.items()
    }
    pipeline["evaluate"] = {"cmd": "evaluate", "metrics": [{EVALUATION: {"cache": False}}]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}))
    locked = {
        name: {
            "cmd": commands[name],
            "deps": [{"path": dep, "md5": digest} for dep, digest in raw.items()],
            "params": {"params.yaml": {"label": params["label"]}},
            "outs": [{"path": path, "md5": (made or {}).get(path, "0" * 32)}],
        }
        for name, path in STAGES.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", md5(Path("dvc.lock")))
    return Revision.find("HEAD")


def test_crashes_are_those_that_the_evidence_agrees_on_and_in_an_older_commit_those_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, seen = ticket(1), ticket(2, "b")
    months = {"month=2026-01": telemetry(1, range(1, 3))}
    older = commit(months, tickets(recorded))
    assert GroundTruth.of(older).crashes()["server_id"].to_list() == [recorded["server_id"]]
    monkeypatch.setitem(STAGES, "resolve", test_set.CONSENSUS)
    newer = commit(months, tickets(recorded), made={test_set.CONSENSUS: hold_file(tickets(recorded, seen))})
    truth = GroundTruth.of(newer)
    assert truth.crashes()["server_id"].to_list() == [recorded["server_id"], "b"]
    assert not truth.has_the_crashes_of(GroundTruth.of(older))
    assert truth.has_the_crashes_of(GroundTruth.of(newer))


JANUARY, FEBRUARY = "month=2026-01", "month=2026-02"


class TestHistory:
    def rows(self, digest: str) -> pl.DataFrame:
        listing = cache.members(digest, "telemetry")
        return pl.concat(tables.read(cache.locate(listing[path], "telemetry")) for path in sorted(listing))

    def test_a_new_month_is_no_correction_and_no_file_of_it_is_opened(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = commit({JANUARY: telemetry(1, range(1, 29))})
        head = commit({JANUARY: telemetry(1, range(1, 29)), FEBRUARY: telemetry(2, range(1, 9))})
        february = cache.members(head.raw[TELEMETRY], "telemetry")[f"{FEBRUARY}/{tables.FILE_NAME}"]
        locate = cache.locate
        monkeypatch.setattr(cache, "locate", lambda digest, what: locate({february: "x"}.get(digest, digest), what))
        history = History.of(base, head)
        assert not history.is_corrected
        assert history.base == history.head == head.raw

    def test_a_month_that_goes_on_is_no_correction(self, project: Path) -> None:
        base = commit({JANUARY: telemetry(1, range(1, 15))})
        head = commit({JANUARY: telemetry(1, range(1, 29))})
        history = History.of(base, head)
        assert (history.counts, history.head) == ({}, head.raw)

    def test_corrected_rows_are_counted_and_the_bases_put_back(self, project: Path) -> None:
        base = commit({JANUARY: telemetry(1, range(1, 15))})
        head = commit({JANUARY: telemetry(1, range(2, 29), d5=50, d20=70), FEBRUARY: telemetry(2, range(1, 9))})
        history = History.of(base, head)
        assert history.counts == {"telemetry": {CHANGED: 1, REMOVED: 2}}
        assert {(row["what"], row["server_id"], row["at"]) for row in history.listed} == {
            (CHANGED, "a", at(5).isoformat()),
            (REMOVED, "a", at(1).isoformat()),
            (REMOVED, "b", at(1).isoformat()),
        }
        expected = pl.concat([telemetry(1, range(1, 29), d20=70), telemetry(2, range(1, 9))])
        assert self.rows(history.head[TELEMETRY]).equals(expected)
        assert history.base == history.head
        assert History.of(base, head) == history

    def test_the_past_of_a_ticket_system_is_the_bases(self, project: Path) -> None:
        months, older = {JANUARY: telemetry(1, range(1, 29))}, recorded(("pager", at(1), at(28)))
        base, head = (commit(months, sources=rows) for rows in (older, recorded(("pager", at(9), at(9, month=2)))))
        history = History.of(base, head)
        assert history.counts == {"ticket sources": {CHANGED: 1}}
        judged = tables.read(cache.locate(history.base[TICKET_SOURCES], "ticket sources"))
        assert judged.equals(recorded(("pager", at(1), at(9, month=2))))
        assert history.head == head.raw | {TICKET_SOURCES: history.base[TICKET_SOURCES]}

    def test_a_commit_whose_stages_do_not_read_ticket_systems_corrects_nothing(self, project: Path) -> None:
        months = {JANUARY: telemetry(1, range(1, 29))}
        older, newer = commit(months), commit(months, sources=recorded(("pager", at(5), at(20))))
        assert TICKET_SOURCES not in older.raw
        for base, head in ((older, newer), (newer, older)):
            history = History.of(base, head)
            assert (history.counts, history.base, history.head) == ({}, newer.raw, newer.raw)

    def test_a_column_that_was_widened_is_no_correction(self, project: Path) -> None:
        narrow = telemetry(1, range(1, 15)).with_columns(pl.col("cpu_pct").cast(pl.Float32))
        base = commit({JANUARY: narrow})
        head = commit({JANUARY: telemetry(1, range(1, 29))})
        assert History.of(base, head).counts == {}

    def test_a_month_that_is_gone_comes_back(self, project: Path) -> None:
        base = commit({JANUARY: telemetry(1, range(1, 29)), FEBRUARY: telemetry(2, range(1, 9))})
        head = commit({FEBRUARY: telemetry(2, range(1, 12))})
        history = History.of(base, head)
        assert history.counts == {"telemetry": {REMOVED: 56}}
        assert self.rows(history.head[TELEMETRY]).height == 56 + 22

    def test_another_metric_is_no_correction_and_the_base_does_not_see_it(self, project: Path) -> None:
        metrics = {"cpu_pct": {"min": 0, "max": 100}, "load": {"min": 0, "max": 100}}
        more = PARAMS["telemetry"] | {"metrics": metrics}
        base = commit({JANUARY: telemetry(1, range(1, 15))})
        wider = telemetry(1, range(1, 29)).with_columns(load=pl.lit(1.0))
        head = commit({JANUARY: wider}, telemetry=more)
        history = History.of(base, head)
        assert (history.counts, history.head) == ({}, head.raw)
        assert self.rows(history.base[TELEMETRY]).equals(telemetry(1, range(1, 29)))

    def test_with_another_metric_and_a_correction_each_has_its_columns(self, project: Path) -> None:
        metrics = {"cpu_pct": {"min": 0, "max": 100}, "load": {"min": 0, "max": 100}}
        more = PARAMS["telemetry"] | {"metrics": metrics}
        base = commit({JANUARY: telemetry(1, range(1, 15))})
        head = commit({JANUARY: telemetry(1, range(1, 29), d5=50).with_columns(load=pl.lit(1.0))}, telemetry=more)
        history = History.of(base, head)
        assert history.counts == {"telemetry": {CHANGED: 1}}
        expected = telemetry(1, range(1, 29))
        assert self.rows(history.base[TELEMETRY]).equals(expected)
        assert self.rows(history.head[TELEMETRY]).equals(expected.with_columns(load=pl.lit(1.0)))


def test_a_partition_is_known_by_its_file() -> None:
    for unit in ("month", "week", "day"):
        partition = tables.partition_at(naive(14), unit)
        assert partition_of(f"{partition.name}/{tables.FILE_NAME}") == partition


def labels(days: range, positive: set[int] = frozenset(), unknown: set[int] = frozenset()) -> pl.DataFrame:  # type: ignore[assignment]
    rows = [
        {"timestamp": at(day), "server_id": server,
         "label": None if day in unknown else int(day in positive and server == "a"), "reason": None}
        for day in days for server in "ab"
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={**tables.KEYS, "label": pl.Int8, "reason": pl.String})


def model_of(value: float, feature: str = "x", threshold: float | None = None) -> str:
    """Put a model that says the share of positives it saw into the cache: an odd constant per model."""
    x = np.zeros((100, 1), dtype=np.float32)
    estimator = DummyClassifier(strategy="prior").fit(x, np.arange(100) < value * 100)
    folder = Path("made-model")
    folder.mkdir(exist_ok=True)
    save(Model(estimator, "dummy", {}, [feature], 0.0, threshold=threshold or value / 2), folder)
    return cache.hold_folder({name: cache.hold(folder / name) for name in ("model.json", "model.skops")})


def run_of(rule: dict, table: pl.DataFrame, features: pl.DataFrame, value: float) -> dict[str, str]:
    """Return what the stages made, by hash."""
    return {
        "data/labels": hold({JANUARY: table}),
        "data/features": hold({JANUARY: features}),
        "data/split.json": hold_file(rule),
        "models": model_of(value),
    }


def features_of(table: pl.DataFrame) -> pl.DataFrame:
    return table.select(*tables.KEYS, x=pl.lit(0, dtype=pl.Float32))


def figures_of(rule: dict, table: pl.DataFrame, score: float) -> dict[str, float]:
    """Return what the evaluation says of a model that gives every row one score."""
    labels = table.filter((split_rule.assign(table, rule) == "test").fill_null(False))["label"]
    rate = labels.sum() / len(labels)
    brier = rate * (1 - score) ** 2 + (1 - rate) * score**2
    return {"rows": len(labels), "positives": labels.sum(), "threshold": score / 2, "pr_auc": rate, "brier": brier}


class TestRescore:
    """Data of January, a row a day on each of two servers; what the stages made of it is as the lock says."""

    RULE = periods(1, 10, 15, 21)
    DATA = labels(range(1, 21), positive={4, 12, 18})
    CRASH = tickets(ticket(1, start=at(18, 5)))

    def commit(self, value: float, rule: dict | None = None, features: pl.DataFrame | None = None, **more) -> Revision:
        rule = rule or self.RULE
        made = run_of(rule, self.DATA, features_of(self.DATA) if features is None else features, value)
        figures = figures_of(rule, self.DATA, value)
        return commit(
            {JANUARY: telemetry(1, range(1, 21))},
            incidents=self.CRASH,
            made=made,
            featurized="featurize" if features is None else "featurize otherwise",
            **{"figures": figures} | more,
        )

    @pytest.fixture(autouse=True)
    def looked_ahead(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
        """Note what is to be checked: commits by hand have no stages to run (tests/system has tests that do)."""
        asked: list[tuple] = []
        monkeypatch.setattr(retraining, "train", lambda revision, *_: revision.outs["models"])
        monkeypatch.setattr(look_ahead, "check", lambda *asked_for: asked.append(asked_for))
        return asked

    def test_the_features_of_both_models_must_not_look_ahead(self, project: Path, looked_ahead: list[tuple]) -> None:
        base, head = self.commit(0.1), self.commit(0.3)
        rescore(base, head)
        period = (naive(15), naive(21))
        assert looked_ahead == [
            (head, head.outs["data/features"], head.raw, period, False),
            (base, base.outs["data/features"], base.raw, period, True),
        ]

    def test_both_models_score_every_known_row_of_the_test_part(self, project: Path) -> None:
        found = rescore(self.commit(0.1), self.commit(0.3))
        assert found.forward.rows.columns == ["timestamp", "server_id", "label", "observed", "champion", "challenger"]
        assert found.forward.rows["timestamp"].unique().sort().to_list() == [at(day) for day in range(15, 21)]
        assert found.forward.rows["champion"].unique().to_list() == pytest.approx([0.1])
        assert found.forward.rows["challenger"].unique().to_list() == pytest.approx([0.3])
        assert found.forward.thresholds == {"champion": 0.05, "challenger": 0.15}
        assert found.forward.period == (naive(15), naive(21))
        assert (found.kind, found.forward.excluded) == ("own", {})
        assert (found.expected["crashes"], found.found["crashes"]) == (1, 1)
        assert (found.expected["server_days"], found.found["server_days"]) == (0.5, 0.5)  # 12 rows of an hour
        assert found.forward.slices["group_web"] == {"a"}
        assert found.forward.slices["seen_servers"] == {"a", "b"}

    def test_what_was_made_is_known_from_every_commit_but_the_challengers(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its dvc.lock may say anything of what the base's code makes of new data."""
        base, head, anchor = self.commit(0.1), self.commit(0.3), self.commit(0.2)
        asked: list[set[str]] = []
        recorded = stage_runs.recorded
        monkeypatch.setattr(
            stage_runs, "recorded", lambda *known: asked.append({one.name for one in known}) or recorded(*known)
        )
        for anchors, known in ((None, {base.name}), (anchor, {base.name, anchor.name})):
            asked.clear()
            rescore(base, head, anchors)
            assert asked[0] == known

    def test_rows_whose_crash_may_have_been_prevented_are_told_apart(self, project: Path) -> None:
        prevented = pl.col("timestamp").is_in([at(9), at(17)]) & (pl.col("server_id") == "b")
        table = self.DATA.with_columns(
            label=pl.when(~prevented).then("label"),
            reason=pl.when(prevented).then(pl.lit(tables.MITIGATED)),
            observed=True,
        )
        made = run_of(self.RULE, table, features_of(table), 0.1)
        base, head = (
            commit({JANUARY: telemetry(1, range(1, 21))}, incidents=self.CRASH, made=made,
                   figures=figures_of(self.RULE, table.drop_nulls("label"), 0.1))
            for _ in range(2)
        )  # fmt: skip
        found = rescore(base, head).forward
        assert found.mitigated.select(*tables.KEYS).rows() == [(at(17), "b")]
        assert found.wanted == 11

    def test_rows_without_features_of_a_model_are_left_out_and_counted(self, project: Path) -> None:
        fewer = features_of(self.DATA).filter(pl.col("timestamp") != at(17))
        found = rescore(self.commit(0.1), self.commit(0.3, features=fewer))
        assert at(17) not in found.forward.rows["timestamp"].to_list()
        assert found.forward.excluded["without features of the challenger"] == 2
        assert (found.expected["scored_rows"], found.found["scored_rows"]) == (12, 10)

    @pytest.mark.parametrize(
        ("told", "said"),
        [
            ({"pr_auc": 0.9}, r"says pr_auc 0.9, and its model gives 0.0833333 on the same rows"),
            ({"rows": 13}, "says rows 13, and its model gives 12"),
            ({"threshold": 0.5}, "says threshold 0.5, and its model gives 0.15"),
            ({"pr_auc": "0.0833333"}, "says pr_auc 0.0833333, "),
            ({"brier": 10**400}, "says brier 1000"),
        ],
    )
    def test_figures_that_the_model_does_not_give_are_refused(self, project: Path, told: dict, said: str) -> None:
        base, honest = self.commit(0.1), figures_of(self.RULE, self.DATA, 0.3)
        rescore(base, self.commit(0.3))
        with pytest.raises(UserError, match=said):
            rescore(base, self.commit(0.3, figures=honest | told))

    def test_the_model_must_be_the_one_that_training_again_makes(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base, head = self.commit(0.1), self.commit(0.3)
        assert rescore(base, head).trained_again == "same"
        for again, is_close in ((model_of(0.3, threshold=0.1501), True), (model_of(0.31), False)):
            monkeypatch.setattr(retraining, "train", lambda *_, again=again: again)
            if is_close:
                assert rescore(base, head).trained_again == "close"
                continue
            for champion in (base, None):
                with pytest.raises(UserError, match=r"is not the one that its `train` makes .* brier is 0.*, not 0"):
                    rescore(champion, head)

    def test_the_champion_is_as_old_as_what_it_learned_from(self, project: Path) -> None:
        """Rows of one server, long after all others', make nothing stale."""
        found = rescore(self.commit(0.1), self.commit(0.3, rule=periods(1, 10, 15, 31)))
        assert found.ends == dict.fromkeys(("champion", "challenger"), naive(9) + 12 * HOUR)

    def test_rows_are_named_by_what_is_known_of_them(self, project: Path) -> None:
        def named(table: pl.DataFrame) -> str:
            made = run_of(self.RULE, table, features_of(table), 0.1)
            base = commit(
                {JANUARY: telemetry(1, range(1, 21))}, incidents=self.CRASH, made=made,
                figures=figures_of(self.RULE, table, 0.1),
            )  # fmt: skip
            return rescore(base, self.commit(0.3)).rows_hash

        unknown = self.DATA[-1:].with_columns(pl.col("timestamp") + HOUR, label=pl.lit(None, self.DATA.schema["label"]))
        other = pl.when(pl.col("timestamp") == at(17)).then(1 - pl.col("label")).otherwise(pl.col("label"))
        assert named(pl.concat([self.DATA, unknown])) == named(self.DATA)
        assert named(self.DATA.with_columns(label=other.cast(self.DATA.schema["label"]))) != named(self.DATA)

    def test_a_test_part_that_the_champion_was_trained_on_is_refused(self, project: Path) -> None:
        base = self.commit(0.1)
        with pytest.raises(UserError, match="there is nothing to judge the challenger on: every row of its test"):
            rescore(
                base, self.commit(0.3, rule=periods(11, 13, 15, 16) | {"periods": periods(11, 12, 13, 14)["periods"]})
            )

    def test_what_remains_of_the_champions_test_part_is_scored_too(self, project: Path) -> None:
        """The challenger was trained on the later data alone, so the first half of the champion's test part is left."""
        base = self.commit(0.1, rule=periods(1, 3, 5, 21))
        found = rescore(base, self.commit(0.3, rule=periods(12, 15, 17, 21)))
        assert found.forward.rows["timestamp"].unique().sort().to_list() == [at(day) for day in range(17, 21)]
        reverse = found.reverse
        assert isinstance(reverse, ScoredRows)
        assert reverse.period == (naive(5), naive(11, 15))  # labels reach 7 hours ahead, and recovery takes 2
        assert reverse.rows["timestamp"].unique().sort().to_list() == [at(day) for day in range(5, 12)]
        assert reverse.rows.height == 14
        assert reverse.rows["champion"].unique().to_list() == pytest.approx([0.1])
        assert reverse.rows["challenger"].unique().to_list() == pytest.approx([0.3])
        assert reverse.excluded == {
            "in the challenger's train part": 6,
            "in the challenger's validation part": 4,
            test_set.APART: 8,
        }

    def test_if_nothing_or_the_same_remains_of_the_champions_test_part_it_says_so(self, project: Path) -> None:
        early, late = self.commit(0.1, rule=periods(1, 5, 10, 21)), self.commit(0.3)
        found = rescore(early, late)
        assert found.forward.period == (naive(15), naive(21))
        assert found.reverse == "its rows are the same"
        found = rescore(late, early)
        assert found.forward.excluded["in the champion's validation part"] == 10
        assert found.reverse == "its rows are the same"
        found = rescore(self.commit(0.1, rule=periods(1, 5, 8, 11)), self.commit(0.3, rule=periods(1, 13, 15, 21)))
        assert isinstance(found.reverse, str)
        assert found.reverse.startswith("every row of its test period lies in a train or validation part")

    def trust(self, monkeypatch: pytest.MonkeyPatch, *commits: Revision) -> None:
        """Take the challenger's word for what the base's code makes of new data, as the review does not."""
        recorded = stage_runs.recorded
        monkeypatch.setattr(stage_runs, "recorded", lambda *revisions: recorded(*revisions, *commits))

    def test_each_model_scores_the_features_of_the_columns_that_its_commit_knows(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The challenger has another metric, and no features on the 17th."""
        cpu = {"cpu_pct": {"min": 0, "max": 100}}
        wider = PARAMS["telemetry"] | {"metrics": cpu | {"load": {"min": 0, "max": 100}}}
        rows = telemetry(1, range(1, 21))
        base, fewer = self.commit(0.1), features_of(self.DATA).filter(pl.col("timestamp") != at(17))
        made = run_of(self.RULE, self.DATA, fewer, 0.3)
        head = commit(
            {JANUARY: rows.with_columns(load=pl.lit(1.0))}, incidents=self.CRASH, made=made, telemetry=wider,
            figures=figures_of(self.RULE, self.DATA, 0.3),
        )  # fmt: skip
        assert base.raw[TELEMETRY] != head.raw[TELEMETRY]
        self.trust(monkeypatch, base, head)
        assert rescore(base, head).forward.excluded == {"without features of the challenger": 2}
        assert rescore(head, base).forward.excluded == {"without features of the champion": 2}

    def run(self, value: float, table: pl.DataFrame, features: pl.DataFrame, **more) -> Revision:
        """Commit what the stages made of other data or by other rules."""
        made, figures = run_of(self.RULE, table, features, value), figures_of(self.RULE, table, value)
        return commit(incidents=self.CRASH, made=made, figures=figures, **more)

    def test_other_labels_are_judged_by_the_bases_and_by_their_own(self, project: Path) -> None:
        base, months = self.commit(0.1), {JANUARY: telemetry(1, range(1, 21))}
        other = labels(range(1, 21), positive={4, 12, 16, 17})
        found = rescore(base, self.run(0.3, other, features_of(other), months=months)).by_definition
        assert list(found) == ["the base's rules", "the challenger's labels"]
        positive = {name: scored.rows.filter(label=1)["timestamp"].to_list() for name, scored in found.items()}
        assert positive == {"the base's rules": [at(18)], "the challenger's labels": [at(16), at(17)]}
        for scored in found.values():
            assert scored.rows["champion"].unique().to_list() == pytest.approx([0.1])
            assert scored.rows["challenger"].unique().to_list() == pytest.approx([0.3])

    def test_by_its_own_labels_too_each_model_scores_its_own_features(self, project: Path) -> None:
        """The challenger has other labels and rules, and no features on the 17th."""
        base, months = self.commit(0.1), {JANUARY: telemetry(1, range(1, 21))}
        other = labels(range(1, 21), positive={4, 12, 16})
        fewer = features_of(self.DATA).filter(pl.col("timestamp") != at(17))
        found = rescore(base, self.run(0.3, other, fewer, months=months, label=PARAMS["label"] | {"recovery": "3h"}))
        assert list(found.by_definition) == ["the base's rules", "the challenger's labels"]
        for scored in found.by_definition.values():
            assert scored.excluded == {"without features of the challenger": 2}

    def test_a_commits_other_code_runs_without_the_users_variables(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THEIR_OWN", "secret")
        base = self.commit(0.1)
        Path("src/crashcast/modeling/model.py").write_text(
            'import os, sys\nsys.exit(f\'OMP {os.environ["OMP_WAIT_POLICY"]}, own {os.environ.get("THEIR_OWN")}\')\n'
        )
        head = self.commit(0.3)
        with pytest.raises(UserError, match="cannot be run with that commit's code: OMP PASSIVE, own None"):
            rescore(base, head)
        Path("src/crashcast/modeling/model.py").write_text("import os\nos._exit(3)\n")
        with pytest.raises(UserError, match="cannot be run with that commit's code: it ended with status 3"):
            rescore(base, self.commit(0.3))

    def test_a_commit_without_a_split_cannot_be_compared(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        base = self.commit(0.1)
        monkeypatch.delitem(STAGES, "split")
        with pytest.raises(UserError, match=r"no stage of commit \w+ writes data/split\.json: it cannot be compared"):
            rescore(base, self.commit(0.3))

    def test_partitions_that_a_period_does_not_touch_are_left_out(self, project: Path) -> None:
        names = [f"month=2026-0{month}" for month in (1, 2, 3)]
        table = hold({name: rows_at([5]) for name in names})
        period = naive(1, month=2), naive(1, month=3)
        laid = test_set.lay_out(table, period, Path("made-table"), "a table")
        assert [folder.name for folder in laid.iterdir()] == names[1:2]

    def test_without_a_row_of_its_own_labels_there_is_nothing_to_judge(self, project: Path) -> None:
        base, months = self.commit(0.1), {JANUARY: telemetry(1, range(1, 21))}
        unknown = labels(range(1, 21), unknown={*range(15, 21)})
        made = run_of(self.RULE, unknown, features_of(unknown), 0.3)
        with pytest.raises(UserError, match="nothing to judge the challenger on under the challenger's labels: no row"):
            rescore(base, commit(months, incidents=self.CRASH, made=made))

    def test_a_corrected_history_is_judged_with_the_bases_and_with_its_own(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the corrected data no features are known on the 17th, of either model."""
        base, months = self.commit(0.1), {JANUARY: telemetry(1, range(1, 21), d5=50)}
        fewer = features_of(self.DATA).filter(pl.col("timestamp") != at(17))
        head = self.run(0.3, self.DATA, fewer, months=months)
        self.trust(monkeypatch, head)
        found = rescore(base, head)
        assert list(found.by_definition) == ["the base's rules", "the corrected history"]
        forward, corrected = found.by_definition.values()
        assert (forward.excluded, forward.rows.height) == ({}, 12)
        assert (corrected.excluded, corrected.rows.height) == ({"without features of the champion": 2}, 10)
        assert found.history.counts == {"telemetry": {CHANGED: 1}}

    def test_other_data_alone_is_no_other_definition_of_a_crash(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base, months = self.commit(0.1), {JANUARY: telemetry(1, range(1, 21), d5=50)}
        other = labels(range(1, 21), positive={4, 12, 17})
        by_the_same_rules = self.run(0.3, other, features_of(other), months=months)
        self.trust(monkeypatch, by_the_same_rules)
        assert [*rescore(base, by_the_same_rules).by_definition][1:] == ["the corrected history"]
        longer = PARAMS["label"] | {"recovery": "3h"}
        by_others = self.run(0.3, other, features_of(other), months=months, label=longer)
        history, truths = History.of(base, by_others), (GroundTruth.of(base), GroundTruth.of(by_others))
        name = "the challenger's labels and the corrected history"
        assert rescoring._what_differs(history, *truths) == name

    @pytest.mark.parametrize("unit", ["week", "day"])
    def test_features_may_have_partitions_of_another_length(self, project: Path, unit: str) -> None:
        features = features_of(self.DATA).with_columns(
            name=pl.Series(
                [tables.partition_at(moment.replace(tzinfo=None), unit).name for moment in self.DATA["timestamp"]]
            )
        )
        made = run_of(self.RULE, self.DATA, features_of(self.DATA), 0.3)
        made["data/features"] = hold({name: rows.drop("name") for (name,), rows in features.group_by("name")})
        head = commit(
            {JANUARY: telemetry(1, range(1, 21))}, incidents=self.CRASH, made=made,
            figures=figures_of(self.RULE, self.DATA, 0.3),
        )  # fmt: skip
        found = rescore(self.commit(0.1), head).forward
        assert found.excluded == {}
        assert found.rows["timestamp"].to_list() == [at(day) for day in range(15, 21) for _ in "ab"]

    def test_a_first_model_is_beside_a_constant_and_the_rules_of_its_features(
        self, project: Path, looked_ahead: list[tuple]
    ) -> None:
        """On validation, days 10 to 14, the rule's first alarm is one too many, so the threshold is above its 14."""
        crashes = pl.col("timestamp").dt.day().cast(pl.Float32) * (pl.col("server_id") == "a")
        features = features_of(self.DATA).with_columns(crashes_7d=crashes)
        evaluate = {"replicates": 100, "confidence": 0.9, "block": "1d", "seed": 1}
        made = run_of(self.RULE, self.DATA, features, 0.3) | {"models": model_of(0.3, "crashes_7d")}
        head = commit(
            {JANUARY: telemetry(1, range(1, 21))}, incidents=self.CRASH, made=made, evaluate=evaluate,
            figures=figures_of(self.RULE, self.DATA, 0.3), featurized="featurize otherwise",
        )  # fmt: skip
        found = rescore(None, head)
        assert looked_ahead == [(head, head.outs["data/features"], head.raw, (naive(15), naive(21)))]
        assert list(found.by_definition) == ["dummy", "crashes_7d"]
        dummy, rule = found.by_definition.values()
        assert found.forward is dummy
        assert dummy.rows["champion"].unique().to_list() == [0]
        of_a = rule.rows.filter(pl.col("server_id") == "a")
        assert dict(of_a.select("timestamp", "champion").iter_rows()) == {at(day): day for day in range(15, 21)}
        assert rule.rows.filter(pl.col("server_id") == "b")["champion"].unique().to_list() == [0]
        assert rule.rows["challenger"].unique().to_list() == pytest.approx([0.3])
        assert 14 < rule.thresholds["champion"] < 14.001
        assert rule.thresholds["challenger"] == 0.15
        assert (found.kind, found.reverse, found.history.is_corrected) == ("own", "there is no champion", False)
        assert found.expected == found.found == {"crashes": 1, "server_days": 0.5, "scored_rows": 12}
        assert found.ends == {"challenger": naive(9, 12)}
        assert found.size_bytes.keys() == {"challenger"}
        assert found.rows_hash == rescore(self.commit(0.1), head).rows_hash

    def test_a_first_model_without_a_row_to_judge_it_on_is_refused(self, project: Path) -> None:
        unknown = labels(range(1, 21), unknown={*range(15, 21)})
        made = run_of(self.RULE, unknown, features_of(unknown), 0.3)
        head = commit({JANUARY: telemetry(1, range(1, 21))}, made=made)
        with pytest.raises(
            UserError, match="nothing to judge the first model on: no row of its test period has a known"
        ):
            rescore(None, head)

    # two windows of the rule below: days 9 to 14 and 15 to 20
    FIRST_RULE, TWO = periods(1, 12, 15, 21), ["2026-01-09T00:00:00/2026-01-15T00:00:00",
                                               "2026-01-15T00:00:00/2026-01-21T00:00:00"]  # fmt: skip

    @pytest.fixture
    def trained(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
        """Note what each `train` reads; its model before the first window gives 0.5, before the second its commit's."""
        asked: list[tuple] = []

        def train(revision: Revision, rule: dict, inputs: dict | None = None) -> str:
            inputs = inputs or {}
            read = (
                split_rule.read_rule(cache.locate(inputs["data/split.json"], "")) if "data/split.json" in inputs else {}
            )
            asked.append((revision, rule, read, inputs.get("data/labels"), inputs.get(COVERAGE)))
            return model_of(0.5) if rule["periods"]["test"]["to"] == naive(15).isoformat() else revision.outs["models"]

        monkeypatch.setattr(retraining, "train", train)
        # on the 7th, too: the first window's validation part is days 6 to 8
        monkeypatch.setattr(type(self), "DATA", labels(range(1, 21), positive={4, 7, 12, 18}))
        return asked

    def test_recipes_are_trained_before_each_window_and_the_rows_pooled(
        self, project: Path, trained: list[tuple], looked_ahead: list[tuple], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other_train = lambda revision, path: revision.sha if path == "models" else path  # noqa: E731
        monkeypatch.setattr(stage_runs, "recipe", other_train)
        base, head = (self.commit(value, rule=self.FIRST_RULE) for value in (0.1, 0.3))
        found = rescore(base, head, None, 2)
        assert found.windows == self.TWO
        assert found.forward.period == (naive(9), naive(21))
        assert found.forward.rows["timestamp"].unique().to_list() == [at(day) for day in range(9, 21)]
        assert found.kind == "windows"
        assert (found.expected["crashes"], found.expected["server_days"]) == (1, 1)  # 24 rows of an hour
        assert found.expected == found.found
        by_day = {
            name: dict(found.forward.rows.select("timestamp", name).unique().iter_rows())
            for name in ("champion", "challenger")
        }
        assert by_day["champion"] == pytest.approx({at(day): 0.5 if day < 15 else 0.1 for day in range(9, 21)})
        assert by_day["challenger"] == pytest.approx({at(day): 0.5 if day < 15 else 0.3 for day in range(9, 21)})
        assert [one.thresholds["challenger"] for one in found.forward.windows] == [0.25, 0.15]
        assert found.models is not None
        assert found.models.period == (naive(15), naive(21))  # the models themselves, on the test part
        assert {period for *_, period, _ in looked_ahead} == {(naive(9), naive(21))}
        (_, again), windows = (trained[0][0], trained[0][2]), trained[1:]
        assert again == {}  # the challenger's own model, by its own split
        assert [(one[0], one[1] == one[2]) for one in windows] == [(base, True), (head, True)] * 2
        first, second = windows[0][1]["periods"], windows[2][1]["periods"]
        assert second == self.FIRST_RULE["periods"]
        assert first["train"] == {"from": naive(1).isoformat(), "to": naive(5, 12).isoformat()}
        assert first["validation"] == {"from": naive(6).isoformat(), "to": naive(8, 12).isoformat()}
        assert {one[3] for one in windows} == {base.outs["data/labels"]}  # the same rows for both
        assert {one[4] for one in windows if one[0] == base} == {base.raw[COVERAGE]}

    def test_the_same_recipe_is_judged_by_its_models(self, project: Path, trained: list[tuple]) -> None:
        found = rescore(self.commit(0.1, rule=self.FIRST_RULE), self.commit(0.3, rule=self.FIRST_RULE), None, 2)
        assert (found.windows, found.models, found.kind) == ([], None, "own")
        assert len(trained) == 1

    def test_a_first_recipe_is_beside_each_baseline_on_each_window(self, project: Path, trained: list[tuple]) -> None:
        evaluate = {"replicates": 100, "confidence": 0.9, "block": "1d", "seed": 1}
        features = features_of(self.DATA).with_columns(crashes_7d=pl.lit(1, dtype=pl.Float32))
        made = run_of(self.FIRST_RULE, self.DATA, features, 0.3) | {"models": model_of(0.3, "crashes_7d")}
        head = commit(
            {JANUARY: telemetry(1, range(1, 21))}, incidents=self.CRASH, made=made, evaluate=evaluate,
            figures=figures_of(self.FIRST_RULE, self.DATA, 0.3),
        )  # fmt: skip
        found = rescore(None, head, None, 2)
        assert found.windows == self.TWO
        assert list(found.by_definition) == ["dummy", "crashes_7d"]
        for pooled in found.by_definition.values():
            assert pooled.rows.height == 24
            assert [one.thresholds.keys() for one in pooled.windows] == [{"champion", "challenger"}] * 2
        assert found.models is not None
        assert found.models.rows.height == 12
        assert found.kind == "windows"

    def test_the_anchor_scores_the_same_rows(self, project: Path) -> None:
        base, head = self.commit(0.1), self.commit(0.3)
        found = rescore(base, head, anchor=self.commit(0.2))
        assert found.forward.rows["anchor"].unique().to_list() == pytest.approx([0.2])
        assert rescore(base, head, anchor=base).ends.keys() == {"champion", "challenger"}  # it is the champion


def test_pictures_of_rows_by_hand() -> None:
    moments = [at(18, hour) for hour in range(24)]
    rows = pl.DataFrame({"timestamp": moments, "server_id": "a"}).with_columns(
        pl.col("server_id").cast(pl.Categorical),
        label=pl.col("timestamp").is_between(at(18, 8), at(18, 13)).cast(pl.Int8),
        observed=True,
        champion=pl.when(pl.col("timestamp") == at(18, 9)).then(0.9).otherwise(0.1),
        challenger=pl.when(pl.col("timestamp") == at(18, 20)).then(0.9).otherwise(0.1),
    )
    crashes = pl.DataFrame({"server_id": ["a"], "started_at": [at(18, 14) + HOUR / 2]})
    window = AlarmWindow(HOUR, 6 * HOUR, HOUR)
    thresholds = {"champion": 0.5, "challenger": 0.5}
    drawn = draw(ScoredRows(rows, crashes, (naive(18), naive(19)), window, thresholds, {}))
    assert drawn["warning_h"] == [7, 1]
    (crash,) = drawn["crashes"]
    assert crash["caught_by"] == "champion"
    assert crash["lead_h"] == {"champion": 5.5, "challenger": None}
    assert crash["timeline"]["hours"][:2] == [-14.5, -13.5]
    assert crash["timeline"]["champion"][9] == 0.9
    assert drawn["base_rate"] == pytest.approx(6 / 24)
    assert drawn["precision_recall"]["champion"]["precision"][0] == 1


def test_scores_are_probabilities_up_to_both_borders(tmp_path: Path) -> None:
    def read(*scores: float) -> list[float]:
        np.save(tmp_path / "scores.npy", np.array(scores))
        return rescoring._read_scores({"scores.npy": tmp_path / "scores.npy"}).tolist()

    assert read(0.0, 0.5, 1.0) == [0.0, 0.5, 1.0]
    assert np.isnan(read(np.nan)).all()
    for wrong in (np.nextafter(0, -1), np.nextafter(1, 2)):
        with pytest.raises(ValueError, match="a score is no probability"):
            read(0.5, wrong)


def test_moments_are_drawn_in_their_order_by_the_scores(tmp_path: Path) -> None:
    hours = [naive(1) + timedelta(hours=hour) for hour in range(400)]
    rows = pl.DataFrame({"timestamp": hours * 2}).cast(tables.TIMESTAMP).sort("timestamp")
    tables.write(tables.partition_at(naive(1), "month").path(tmp_path), rows)
    drawn = [rescoring._cuts(np.full(3, score), tmp_path) for score in (0.1, 0.1, 0.2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0]) != drawn[2]
    assert len({*drawn[0]}) == rescoring.CUTS
    assert {moment.replace(tzinfo=None) for moment in drawn[0]} <= {*hours}


def test_inputs_of_other_data_are_not_taken_from_the_base() -> None:
    corrected = SimpleNamespace(is_corrected=True)
    assert rescoring._trusted_inputs(None, None, None, corrected) == {}  # type: ignore[arg-type]
