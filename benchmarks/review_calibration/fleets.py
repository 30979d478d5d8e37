"""Simulated fleets and their features: small ones to train and judge on, a large one for the truth."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
from ruamel.yaml import YAML
from scipy.special import expit

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.modeling.algorithms import Candidate, candidates
from crashcast.modeling.model import fit, matrix
from crashcast.modeling.sampling import feature_names
from crashcast.modeling.split_rule import HAS_LABEL, HASH_RANGE, assign, period, read_part, read_rule, row_hash
from crashcast.params.incidents import Incidents
from crashcast.params.train import Train
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TABLES
from crashcast.paths import TELEMETRY_PATH as RAW
from crashcast.sources.demo import mechanisms, simulator
from stages import clean, featurize, label, split

ROOT = Path(__file__).resolve().parents[2]
SERVERS, MONTHS = 300, 6
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
CHAIN_MONTHS, CHAIN_SHARES = 20, {"train": 0.21, "validation": 0.03, "test": 0.76}
TIMES_LARGER, TRUTH_SEED, TRUTH_NEGATIVES = 20, 999_999, 0.02
CERTAIN_RISK, LEAST_DRAWN = 0.3, 0.005  # a negative of this risk is always drawn; of one of no risk, this share
BOOSTING = {"learning_rate": [0.2], "max_iter": 30, "max_leaf_nodes": [7]}
WAVES_PER_DAY, WAVE_HIT_SHARE, WAVE_H = 1 / 4, 0.15, 8
CHRONIC = {"CHRONIC_SHARE": 0.06, "CHRONIC_FACTOR": 12.0}
ANNOTATIONS = Path("data/raw/annotations.parquet")
BELIEVED, VOTES = Path("data/incidents.parquet"), Path("data/votes.parquet")
FEATURES, LABELS, SPLIT = Path("data/features"), Path("data/labels"), Path("data/split.json")


class Rows(NamedTuple):
    """Keys with their labels, and features of shape (n, k)."""

    keys: pl.DataFrame
    values: np.ndarray


class Fleet(NamedTuple):
    """What a pair is trained and judged on."""

    columns: list[str]
    train: Rows
    share: float  # of negatives among the training rows
    validation: Rows
    test: Rows
    crashes: pl.DataFrame
    periods: dict[str, Any]
    groups: dict[str, frozenset[str]]


@contextmanager
def simulated(condition: str, seed: int, servers: int, months: int, shares: dict[str, float]) -> Iterator[None]:
    """Simulate a fleet in a temporary folder, run the stages up to the split, and work there."""
    before = Path.cwd()
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["demo"].update(seed=seed, servers=servers, months=months)
    params["split"].update(shares)
    params["label"].update(aggregate="tickets")  # whom to believe is not the question here
    params["execution"].update(workers=1, memo_gb=0)
    with tempfile.TemporaryDirectory() as folder, conditions(condition):
        os.chdir(folder)
        try:
            yaml.dump(params, Path("params.yaml"))
            simulator.write()
            write_json(Path("data/validated.json"), {"success": True})
            clean.main(RAW, Path("data/validated.json"), Path("data/clean"), Path("metrics/clean.json"))
            shutil.copy(ROOT / ANNOTATIONS, ANNOTATIONS)
            label.main(
                Path("data/clean"), *TABLES, ANNOTATIONS, LABELS, BELIEVED, VOTES, Path("metrics/label.json")
            )  # fmt: skip
            featurize.main(Path("data/clean"), INCIDENTS_PATH, COVERAGE_PATH, FEATURES)
            split.main(LABELS, COVERAGE_PATH, SPLIT, Path("metrics/split.json"))
            yield
        finally:
            os.chdir(before)


@contextmanager
def conditions(condition: str) -> Iterator[None]:
    """Make crashes come from few servers, or from many at once."""
    if condition == "chronic":
        with patch.multiple(mechanisms, **CHRONIC):
            yield
    elif condition == "outages":
        usual = mechanisms._candidates
        with patch.object(mechanisms, "_candidates", lambda *day: [*wave(*day), *usual(*day)]):
            yield
    else:
        yield


def wave(fleet: mechanisms.Fleet, day: int, last_up: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the servers that a day's surge of load hits, if there is one: all at the same hour."""
    draw = mechanisms.generator(fleet.seed, "waves", day)
    if draw.random() < WAVES_PER_DAY:
        midnight = (day - mechanisms.EPOCH.toordinal()) * mechanisms.DAY_MINUTES
        server = np.flatnonzero(draw.random(len(fleet)) < WAVE_HIT_SHARE)
        onset = np.full(len(server), midnight + int(draw.integers(mechanisms.DAY_MINUTES)))
        planned = onset + 60 * WAVE_H
        slip = draw.integers(-mechanisms.JITTER_MINUTES, mechanisms.JITTER_MINUTES, len(server))
        crashed = draw.random(len(server)) < mechanisms.TROUBLES["overload"].crash_probability
        yield np.full(len(server), "overload"), server, onset, planned, planned + slip, crashed, 90 + 0 * onset


def read_fleet(condition: str, seed: int, months: int = MONTHS, shares: dict[str, float] = SHARES) -> Fleet:
    """Simulate a small fleet and read what is needed of it."""
    with simulated(condition, seed, SERVERS, months, shares):
        rule, rules, columns = read_rule(SPLIT), Train.read(), feature_names(FEATURES)
        known = np.zeros(2)
        for partition in tables.partitions(LABELS):
            rows = tables.read(partition.path(LABELS), ["timestamp", "server_id", "label"], HAS_LABEL)
            known += np.bincount(rows["label"].filter(assign(rows, rule) == "train"), minlength=2)
        share = min(1.0, rules.negatives_per_positive * known[1] / known[0])
        covered = tables.read(COVERAGE_PATH, ["server_id", "group"])
        return Fleet(
            columns,
            read(rule, "train", columns, lambda rows: drawn(rows, share)),
            share,
            read(rule, "validation", columns),
            read(rule, "test", columns),
            read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read()),
            {part: period(rule, part) for part in SHARES},
            {f"group_{name[0]}": frozenset(some["server_id"]) for name, some in covered.group_by("group")},
        )


def read(rule: dict[str, Any], part: str, columns: list[str], draw: Any = None) -> Rows:
    """Read a part's rows."""
    pieces = [rows.filter(HAS_LABEL) for _, rows in read_part(FEATURES, LABELS, rule, part, columns, draw)]
    keys = pl.concat(rows.select("timestamp", "server_id", "label", "observed") for rows in pieces)
    return Rows(keys, np.concatenate([matrix(rows, columns) for rows in pieces]))


def read_truth(condition: str) -> dict[str, np.ndarray]:
    """Simulate the large fleet: all rows before a crash, and of the others the more, the riskier they look.

    A ranking is judged by the negatives at its top, so these are drawn with a probability in proportion to the risk
    that a model of the large fleet's own gives them, and weighed by its inverse (Horvitz, Thompson, 1952).
    """
    with simulated(condition, TRUTH_SEED, TIMES_LARGER * SERVERS, MONTHS, SHARES):
        rule, columns = read_rule(SPLIT), feature_names(FEATURES)
        own = read(rule, "train", columns, lambda rows: drawn(rows, TRUTH_NEGATIVES))
        model = fit(boosting(), columns, own.values, own.keys["label"].to_numpy() == 1, TRUTH_NEGATIVES)
        pieces: dict[str, list[np.ndarray]] = {"values": [], "labels": [], "weights": []}
        for _, judged in read_part(FEATURES, LABELS, rule, "test", columns):
            rows = judged.filter(HAS_LABEL)
            values, labels = matrix(rows, columns), rows["label"].to_numpy()
            risk = expit(model.log_odds(values))
            kept = np.where(labels == 1, 1.0, np.clip(risk / CERTAIN_RISK, LEAST_DRAWN, 1.0))
            chosen = np.random.default_rng([TRUTH_SEED, len(pieces["labels"])]).random(len(rows)) < kept
            for name, of in (("values", values), ("labels", labels), ("weights", 1 / kept)):
                pieces[name].append(of[chosen])
    return {name: np.concatenate(of) for name, of in pieces.items()}


def drawn(rows: pl.DataFrame, share: float) -> pl.Series:
    """Tell which rows to train on: all before a crash, and this share of the others."""
    draw = pl.Series(row_hash(rows, TRUTH_SEED, "training sample"))
    return (rows["label"] == 1).fill_null(False) | (draw < int(share * (HASH_RANGE - 1)))


def boosting() -> Candidate:
    """Return the algorithm: trees, but few of them, for there are thousands of models to fit."""
    rules = Train.read(ROOT / "params.yaml")
    grid = rules.candidates.hist_gradient_boosting
    few = rules.candidates.model_copy(update={"hist_gradient_boosting": grid.model_copy(update=BOOSTING)})
    return next(one for one in candidates(few, rules.seed, []) if one.algorithm == "hist_gradient_boosting")
