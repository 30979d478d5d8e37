"""Champion and challenger on the same rows, by the same rules.

Two models' own figures cannot be compared: they come from other rows, other labels, other data. So both score the
challenger's test period, without the rows that either was trained on and the embargo around them. The data has the
base's history, cleaning, coverage and labels are the base's, and each model's features are those that its own commit
computes from that data.

With `acceptance.windows` above 1, recipes are judged instead of models: the `train` of each commit runs again before
every test window (windows.py), and the rows of all windows are pooled. The models themselves are scored, too, and can
still be vetoed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import canonical, files, tables
from crashcast.errors import UserError
from crashcast.history.byte_comparison import TOLERANCE, is_close
from crashcast.modeling import model, row_metrics, split_rule
from crashcast.modeling.alarms import AlarmWindow, choose_threshold, known_rows
from crashcast.modeling.algorithms import DUMMY
from crashcast.modeling.baselines import one_rules, with_baselines, without_itself
from crashcast.modeling.slices import names
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.telemetry import Telemetry
from crashcast.review import look_ahead, retraining, scoring, stage_runs, windows
from crashcast.review.data_changes import History, partition_of
from crashcast.review.test_set import (
    CONSENSUS,
    FEATURES,
    LABELS,
    OTHER,
    OWN,
    SPLIT,
    GroundTruth,
    PartSize,
    Period,
    Rule,
    ScoredModel,
    TestSet,
    kind_of,
    lay_out,
    read_rule,
)
from crashcast.text import some_of
from crashcast.versioning import cache, committed_model, environment, sandbox
from crashcast.versioning.revision import COVERAGE, EVALUATION, INCIDENTS, MODELS, Revision

CHAMPION, CHALLENGER, ANCHOR = "champion", "challenger", "anchor"
THE_BASES = "the base's rules"
WINDOWS = "windows"
CUTS = 3  # moments at which other code scores again, each in a process of its own


@dataclass(frozen=True)
class ScoredRows:
    """Scores of two models, or three, on the same rows.

    Attributes
    ----------
    rows : DataFrame
        `timestamp`, `server_id` (Categorical), `label` (0, 1, or null: unknown), `observed`, and a probability of each
        model: `champion`, `challenger` and, if there is one, `anchor`; sorted by (timestamp, server_id).
    crashes : DataFrame
        `server_id`, `started_at`: covered crashes of the servers in question, also those outside the period.
    period : pair of datetime
        From (included) and to (excluded); naive, meaning UTC.
    window : AlarmWindow
        When an alarm counts as true.
    thresholds : dict of str to float
        At which each model raises alarms, as it was trained.
    slices : dict of str to frozenset
        The servers of each slice.
    excluded : dict of str to int
        Rows of known label of the test part that were left out, by reason.
    wanted, unscored : int
        Rows of known label that were to be scored, and those of them for which the challenger has no features.
    latency_ms : dict of str to float
        Of scoring 1,000 rows.
    mitigated : DataFrame
        See `split_rule.mitigated_rows`: those among the rows.
    windows : tuple of ScoredRows
        What these rows pool, the oldest first: each window has models and thresholds of its own. Empty if they pool
        nothing; then there is one model of each name.
    rule : dict
        The split whose test part the rows are.
    variance_factor : float
        See `windows.variance_factor`.
    """

    rows: pl.DataFrame
    crashes: pl.DataFrame
    period: Period
    window: AlarmWindow
    thresholds: dict[str, float]
    slices: dict[str, frozenset[str]]
    excluded: dict[str, int] = field(default_factory=dict)
    wanted: int = 0
    unscored: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    mitigated: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=split_rule.KEYS_AND_LABEL))
    windows: tuple[ScoredRows, ...] = ()
    rule: Rule = field(default_factory=dict)
    variance_factor: float = 1.0

    @classmethod
    def pooled(cls, found: Sequence[ScoredRows], slices: dict[str, frozenset[str]]) -> Self:
        """Return the rows of several windows together; what there is one of is the newest window's."""
        oldest, newest, excluded = found[0], found[-1], Counter[str]()
        for one in found:
            excluded.update(one.excluded)
        return cls(
            rows=pl.concat([one.rows for one in found], rechunk=True),
            crashes=newest.crashes,
            period=(oldest.period[0], newest.period[1]),
            window=newest.window,
            thresholds=newest.thresholds,
            slices=slices,
            excluded=dict(excluded),
            wanted=sum(one.wanted for one in found),
            unscored=sum(one.unscored for one in found),
            latency_ms=newest.latency_ms,
            mitigated=pl.concat([one.mitigated for one in found]),
            windows=tuple(found),
            variance_factor=windows.variance_factor([one.rule for one in found]),
        )

    @property
    def by_model(self) -> tuple[ScoredRows, ...]:
        """The rows, apart for each set of models that scored them."""
        return self.windows or (self,)


@dataclass(frozen=True)
class Rescoring:
    """Everything that a verdict is based on.

    Attributes
    ----------
    by_definition : dict of str to ScoredRows
        The challenger's test period by the base's rules, and by the challenger's own labels and history if those
        differ, named by what differs. Of a first model: the same rows beside each baseline in the champion's place.
    reverse : ScoredRows or str
        On what remains of the champion's test period, or why that says nothing.
    models : ScoredRows or None
        If recipes are judged: the models of both commits on the challenger's test part, by the base's rules. Of a first
        model: beside the first baseline.
    kind : {"own", "later", "own and later", "other", "windows"}
        Whether the test part is the base's own, or later than that; if so and recipes are judged, "windows".
    expected, found : dict of str to float
        `crashes` and `server_days`: what the test period holds by the base's rules, and what the challenger's commit
        evaluated itself on. `scored_rows`: the rows to score, and those to which the challenger gives a score.
    ends : dict of str to datetime
        The end of each model's train part; naive, meaning UTC.
    size_bytes : dict of str to int
        Of each model's file.
    history : History
        Corrections of what the base already had.
    trained_again : {"same", "close"}
        Whether the challenger's model came out with the same bytes, or as close as types of CPU let it.
    rows_hash : str
        Names the test rows of known label by the base's rules: nothing in the challenger's commit but its raw data
        changes it.
    """

    by_definition: dict[str, ScoredRows]
    reverse: ScoredRows | str
    models: ScoredRows | None
    kind: str
    expected: dict[str, float]
    found: dict[str, float]
    ends: dict[str, datetime]
    size_bytes: dict[str, int]
    history: History
    rows_hash: str
    trained_again: str

    @property
    def windows(self) -> list[str]:
        """The test period of each window, if recipes are judged."""
        return [windows.name(one.rule) for one in self.forward.windows]

    @property
    def forward(self) -> ScoredRows:
        """By the base's rules; of a first model, beside the first baseline."""
        return next(iter(self.by_definition.values()))


def rescore(base: Revision | None, head: Revision, anchor: Revision | None = None, n_windows: int = 1) -> Rescoring:
    """Score the models of two commits, and of a third, on the same rows.

    Parameters
    ----------
    base, head, anchor : Revision
        Whose models are champion and challenger, and the last one that was accepted as an improvement. Each has passed
        `revision.check`. Without a champion, baselines take its place.
    n_windows : int
        Above 1, recipes are judged on so many test windows. If both commits have the same recipe, and so differ in
        their data alone, windows would show nothing: then the models are judged all the same.

    Raises
    ------
    UserError
        If a split was random, no rows are left, data or models cannot be fetched, or a commit's code cannot compute
        its features from the data that both are compared on.
    """
    if base is None:
        return _beside_baselines(head, n_windows)
    if n_windows > 1 and stage_runs.recipe(base, MODELS) == stage_runs.recipe(head, MODELS):
        print("review: both commits have the same recipe: their models are judged, on the test part", file=sys.stderr)
        n_windows = 1
    revisions = {CHAMPION: base, CHALLENGER: head} | ({ANCHOR: anchor} if anchor and anchor != base else {})
    rules = {name: read_rule(revision) for name, revision in revisions.items()}
    # not the challenger's: its dvc.lock may say anything of what the base's code makes of new data
    known = stage_runs.recorded(*(revision for name, revision in revisions.items() if name != CHALLENGER))
    history = History.of(base, head)
    metrics_of_base = base.section(Telemetry).metrics.keys()

    def raw_of(revision: Revision) -> dict[str, str]:
        is_like_base = revision.section(Telemetry).metrics.keys() == metrics_of_base
        return history.base if is_like_base else history.head

    def made_from(revision: Revision, *paths: str) -> dict[str, str]:
        return stage_runs.compute(revision, raw_of(revision), paths, known)

    made = made_from(base, LABELS, SPLIT, FEATURES, *({CONSENSUS} & base.outs.keys()))
    truth = GroundTruth(base, made[LABELS], made.get(CONSENSUS, history.base[INCIDENTS]), history.base[COVERAGE])
    models = {
        name: ScoredModel(revision, made_from(revision, FEATURES)[FEATURES], rules[name])
        for name, revision in revisions.items()
    }
    split = split_rule.read_rule(cache.locate(made[SPLIT], SPLIT))
    its_windows = _windows_of(split, truth, n_windows)
    forward = _score_rows(truth, rules[CHALLENGER], models)
    if isinstance(forward, str):
        raise UserError(f"there is nothing to judge the challenger on: {forward}")
    period = min(forward.period[0], split_rule.period(windows.pooled(its_windows), "test")[0]), forward.period[1]
    for name, revision in ((CHALLENGER, head), (CHAMPION, base)):
        look_ahead.check(revision, models[name].features, raw_of(revision), period, name == CHAMPION)
    trusted = _trusted_inputs(head, models[CHALLENGER], truth, history)
    trained_again = _train_again(models[CHALLENGER], truth, trusted)
    recipes: list[dict[str, ScoredModel]] = []
    if n_windows > 1:
        inputs = {
            name: {**raw_of(revision), **made_from(revision, FEATURES, LABELS, *({CONSENSUS} & revision.outs.keys()))}
            for name, revision in revisions.items()
            if name != CHALLENGER
        }
        recipes = _train_before(its_windows, models, {**inputs, CHALLENGER: trusted})
    reverse = _score_rows(truth, rules[CHAMPION], models, unlike=forward, unlike_rule=rules[CHALLENGER])

    own = GroundTruth.of(head)
    by_definition, under_own = {THE_BASES: _on_windows(truth, models, recipes) or forward}, forward
    if name := _what_differs(history, truth, own):
        raw = head.raw if history.is_corrected else history.base
        theirs = {
            who: replace(
                model,
                features=head.outs[FEATURES]
                if who == CHALLENGER
                else stage_runs.compute(model.revision, raw, [FEATURES], known)[FEATURES],
            )
            for who, model in models.items()
        }
        found = _score_rows(own, rules[CHALLENGER], theirs)
        if isinstance(found, str):
            raise UserError(f"there is nothing to judge the challenger on under {name}: {found}")
        by_definition[name] = _on_windows(own, theirs, recipes) or found
        under_own = found
    _confirm(head, under_own)

    judged, kind = by_definition[THE_BASES], kind_of(forward.rows, rules[CHAMPION])
    judged_part = windows.pooled(its_windows)
    expected = PartSize.of(truth, judged_part)
    evaluated = PartSize.of(own, judged_part if recipes else rules[CHALLENGER])
    return Rescoring(
        by_definition=by_definition,
        reverse="recipes were judged, on windows" if recipes else reverse,
        models=forward if recipes else None,
        kind=WINDOWS if recipes and kind != OTHER else kind,
        expected=_denominators(expected, judged.wanted),
        found=_denominators(evaluated, judged.wanted - judged.unscored),
        ends={name: split_rule.period(rule, "train")[1] for name, rule in rules.items()},
        size_bytes={name: _model_size(revision) for name, revision in revisions.items()},
        history=history,
        rows_hash=expected.rows_hash,
        trained_again=trained_again,
    )


def _what_differs(history: History, base: GroundTruth, own: GroundTruth) -> str:
    """Name what the challenger's own definition of a crash has otherwise; empty if nothing."""
    has_other_labels = own.labels != base.labels or not own.has_the_crashes_of(base)
    if has_other_labels and history.is_corrected:  # other data alone makes other labels
        recipes = [stage_runs.recipe(truth.rules, LABELS) for truth in (base, own)]
        has_other_labels = recipes[0] != recipes[1]
    differing = {"the challenger's labels": has_other_labels, "the corrected history": history.is_corrected}
    return " and ".join(name for name, differs in differing.items() if differs)


def _denominators(size: PartSize, scored_rows: int) -> dict[str, float]:
    return {"crashes": size.crashes, "server_days": size.server_days, "scored_rows": scored_rows}


def _windows_of(rule: Rule, truth: GroundTruth, n_windows: int) -> list[Rule]:
    """Return the split of each window, the oldest first, once each has something to learn from."""
    found = windows.rules(rule, n_windows)
    if n_windows > 1:
        with cache.temporary() as place:
            whole = split_rule.period(rule, "train")[0], split_rule.period(rule, "test")[1]
            windows.check(found, truth.labels_of(whole, place / "labels"))
    return found


def _train_before(
    its_windows: Sequence[Rule], models: Mapping[str, ScoredModel], inputs: Mapping[str, Mapping[str, str]]
) -> list[dict[str, ScoredModel]]:
    """Run the `train` of each model's commit before every window, on data until then, and return its models."""
    found = []
    for number, rule in enumerate(its_windows, 1):
        start, end = split_rule.period(rule, "test")
        print(f"review: window {number} of {len(its_windows)}: {start:%Y-%m-%d} to {end:%Y-%m-%d}", file=sys.stderr)
        with cache.temporary() as place:
            canonical.write_json(place / "split.json", rule)
            split = cache.hold(place / "split.json")
        found.append(
            {
                name: replace(
                    one, rule=rule, model=retraining.train(one.revision, rule, {**inputs[name], SPLIT: split})
                )
                for name, one in models.items()
            }
        )
    return found


def _on_windows(
    truth: GroundTruth, models: Mapping[str, ScoredModel], recipes: Sequence[Mapping[str, ScoredModel]]
) -> ScoredRows | None:
    """Score each window by the models that were trained before it; None if no recipe is judged.

    `models` say which features each of them scores.
    """
    found = []
    for of_window in recipes:
        trained = {name: replace(one, features=models[name].features) for name, one in of_window.items()}
        scored = _score_rows(truth, trained[CHALLENGER].rule, trained)
        if isinstance(scored, str):
            raise UserError(f"there is nothing to judge on window {windows.name(trained[CHALLENGER].rule)}: {scored}")
        found.append(scored)
    if not found:
        return None
    servers = frozenset().union(*(names(one.rows) for one in found))
    return ScoredRows.pooled(found, models[CHALLENGER].slices(servers, truth.coverage))


def _beside_baselines(head: Revision, n_windows: int) -> Rescoring:
    """Score a model that has no champion, with each baseline in the champion's place, on its own test part.

    The baselines are a constant, and the rules that anybody would try; the best single feature, which the evaluation
    has, too, decides nothing here. Their scores are no probabilities, so only rankings and alarms compare; their
    thresholds spend the alarm budget on validation.
    """
    rule, truth = read_rule(head), GroundTruth.of(head)
    its_windows, own = _windows_of(rule, truth, n_windows), ScoredModel(head, head.outs[FEATURES], rule)
    scored = _score_rows(truth, rule, {CHALLENGER: own})
    if isinstance(scored, str):
        raise UserError(f"there is nothing to judge the first model on: {scored}")
    _confirm(head, scored)
    whole = windows.pooled(its_windows)
    period = min(scored.period[0], split_rule.period(whole, "test")[0]), scored.period[1]
    look_ahead.check(head, head.outs[FEATURES], head.raw, period)
    trained_again = _train_again(own, truth)
    by_baseline, models, judged = _beside(scored, truth, own), None, scored
    if n_windows > 1:
        models = next(iter(by_baseline.values()))
        recipes = _train_before(its_windows, {CHALLENGER: own}, {CHALLENGER: {}})
        pooled = _on_windows(truth, {CHALLENGER: own}, recipes)
        assert pooled
        judged = pooled
        found = [
            _beside(one, truth, of_window[CHALLENGER]) for one, of_window in zip(judged.windows, recipes, strict=True)
        ]
        by_baseline = {
            name: ScoredRows.pooled([of_window[name] for of_window in found], judged.slices) for name in by_baseline
        }
    size = PartSize.of(truth, whole)
    return Rescoring(
        by_definition=by_baseline,
        reverse="there is no champion",
        models=models,
        kind=OWN if models is None else WINDOWS,
        expected=_denominators(size, judged.wanted),
        found=_denominators(size, judged.wanted - judged.unscored),
        ends={CHALLENGER: split_rule.period(rule, "train")[1]},
        size_bytes={CHALLENGER: _model_size(head)},
        history=History(dict(head.raw), dict(head.raw)),
        rows_hash=size.rows_hash,
        trained_again=trained_again,
    )


def _beside(scored: ScoredRows, truth: GroundTruth, model: ScoredModel) -> dict[str, ScoredRows]:
    """Return the rows beside each baseline in the champion's place."""
    head, rule = model.revision, model.rule
    described, seed = committed_model.describe(head), head.section(Evaluate).seed
    rules = without_itself(one_rules(described["features"]), described["algorithm"], described["hyperparameters"])
    rows: dict[str, pl.DataFrame] = {}
    with cache.temporary() as place:
        for part in ("validation", "test"):
            period = split_rule.period(rule, part)
            labels = truth.labels_of(period, place / part / "labels")
            table = lay_out(model.features, period, place / part / "features", f"{FEATURES} of {head.name}")
            pieces = split_rule.read_part(table, labels, rule, part, list(rules))
            rows[part] = pl.concat(with_baselines(piece, rules, seed) for _, piece in pieces)
    crashes = split_rule.crashes_of_part(truth.crashes(), rule, "validation")
    budget = head.section(Alarms).false_alarms_per_server_day
    by_baseline = {}
    for name in (DUMMY, *rules):
        score = pl.lit(0.0) if name == DUMMY else pl.col(f"by_{name}").cast(pl.Float64)
        of_validation = rows["validation"].select(*tables.KEYS, "label", "observed", score=score)
        threshold = choose_threshold(of_validation, crashes, budget, truth.window).threshold
        champion = rows["test"].select(*tables.KEYS, score.alias(CHAMPION))
        by_baseline[name] = replace(
            scored,
            rows=scored.rows.join(champion, on=list(tables.KEYS), how="left", maintain_order="left"),
            thresholds={CHAMPION: threshold, **scored.thresholds},
        )
    return by_baseline


def _score_rows(
    truth: GroundTruth,
    rule: Rule,
    models: Mapping[str, ScoredModel],
    unlike: ScoredRows | None = None,
    unlike_rule: Rule | None = None,
) -> ScoredRows | str:
    """Score the test part of a split, or say why not: for example because its rows are those of `unlike`."""
    test_set = TestSet.of(rule, models)
    if test_set.is_empty:
        return "every row of its test period lies in a train or validation part, or in the embargo around one"
    if rule == unlike_rule:
        return "its rows are the same"
    with cache.temporary() as place:
        labels = truth.labels_of(split_rule.period(rule, "test"), place / "labels")
        rows, excluded = test_set.select(labels, place / "rows")
        unknown = rows.filter(~split_rule.HAS_LABEL).select("timestamp", pl.col("server_id").cast(pl.String))
        mitigated = split_rule.mitigated_rows(labels, rule, "test").join(unknown, on=list(tables.KEYS), how="semi")
        if not known_rows(rows):
            return "no row of its test period has a known label and is new to every model"
        if unlike and rows.select(*tables.KEYS).equals(unlike.rows.select(*tables.KEYS)):
            return "its rows are the same"
        latency_ms = {}
        for name, scored in models.items():
            print(f"review: the {name} scores {rows.height:,} rows", file=sys.stderr)
            scores, latency_ms[name] = _score(scored, place / "rows", place / name)
            if len(scores) != rows.height:
                raise UserError(f"the {name} gives {len(scores):,} scores for {rows.height:,} rows")
            rows = rows.with_columns(pl.Series(name, scores))
    wanted, unscored = known_rows(rows), known_rows(rows.filter(pl.col(CHALLENGER).is_nan()))
    for name in models:
        has_none = rows[name].is_nan()
        if has_none.any():
            excluded[f"without features of the {name}"] += known_rows(rows.filter(has_none))
            rows = rows.filter(~has_none)
    if not known_rows(rows):
        return "no row of its test period has features of every model"
    return ScoredRows(
        rows=rows,
        crashes=test_set.crashes(truth.crashes()),
        period=test_set.period,
        window=truth.window,
        thresholds={name: scored.threshold for name, scored in models.items()},
        slices=models[CHALLENGER].slices(names(rows), truth.coverage),
        excluded=dict(excluded),
        wanted=wanted,
        unscored=unscored,
        latency_ms=latency_ms,
        mitigated=mitigated,
        rule=rule,
    )


def _score(scored: ScoredModel, rows: Path, place: Path) -> tuple[NDArray[np.float64], float]:
    """Return a model's scores of the wanted rows, NaN for rows without features, and the latency in ms."""
    revision, commit = scored.revision, f"of commit {scored.revision.name}"
    unit = partition_of(next(iter(cache.members(scored.features, f"{FEATURES} {commit}")))).unit
    rows = _repartitioned(rows, unit, place / "rows")
    names = {partition.name for partition in tables.partitions(rows)}

    def lay_out(model_folder: Path, features: Path) -> None:
        cache.lay_out(scored.model or revision.outs[MODELS], model_folder, f"the model {commit}")
        cache.lay_out(scored.features, features, f"{FEATURES} {commit}", lambda path: Path(path).parts[0] in names)

    is_own = environment.interpreter(revision, cache.review_folder()) == Path(sys.executable)
    if is_own and not committed_model.differing_code(revision, [Path(model.__file__)]):
        folders = place / "model", place / "features", rows, place / "scores"
        lay_out(*folders[:2])
        folders[-1].mkdir()
        latency_ms = scoring.score(*folders)["latency_ms"]
        return _read_scores({file.name: file for file in folders[-1].iterdir()}), latency_ms
    lay_out(place / "model", place / "features")
    scores, latency_ms = _score_apart(revision, place, rows)
    for number, moment in enumerate(_cuts(scores, rows)):
        cut = place / f"cut-{number}"
        for table in ("rows", "features"):
            _end_at(moment, rows if table == "rows" else place / table, cut / table)
        (cut / "model").symlink_to(place / "model")
        until, _ = _score_apart(revision, cut, cut / "rows")
        if not np.allclose(until, scores[: len(until)], rtol=TOLERANCE / 1000, atol=0, equal_nan=True):
            raise UserError(
                f"the scores of the model {commit} look ahead: they are others if the rows end at "
                f"{moment:%Y-%m-%d %H:%M} UTC. A score must depend on its own row alone"
            )
    return scores, latency_ms


def _score_apart(revision: Revision, place: Path, rows: Path) -> tuple[NDArray[np.float64], float]:
    """Score rows in the sandbox, by the model and the features in a folder."""
    with sandbox.room(revision) as room:
        for name, folder in (("model", place / "model"), ("features", place / "features"), ("rows", rows)):
            shutil.copytree(folder, room.input(f"scoring/{name}"), copy_function=_link)
        shutil.copy(scoring.__file__, room.input("scoring/script.py"))
        paths = ("scoring/model", "scoring/features", "scoring/rows", "scoring/scores")
        failure = f"the model of commit {revision.name} cannot be run with that commit's code"
        # -P: the script's folder is no package
        printed = room.run(room.python, "-P", "scoring/script.py", *paths, failure=failure)
        try:
            latency_ms = float(json.loads(printed)["latency_ms"])
            return _read_scores(room.written(paths[-1])), latency_ms
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{failure}: it writes no scores ({error})") from None


def _link(source: str, target: str) -> None:
    files.link(Path(source), Path(target))


def _cuts(scores: NDArray[np.float64], rows: Path) -> list[datetime]:
    """Draw moments of the rows by their scores: who wrote the code that gave them did not know the moments."""
    moments = pl.concat(tables.read(one.path(rows), ["timestamp"]) for one in tables.partitions(rows)).to_series()
    known = moments.unique().sort()
    seed = [*hashlib.sha256(scores.tobytes()).digest()]
    drawn = np.random.default_rng(seed).choice(len(known), min(CUTS, len(known)), replace=False)
    return [known[int(number)] for number in sorted(drawn)]


def _end_at(moment: datetime, table: Path, out: Path) -> None:
    """Write the rows of a table until a moment."""
    for partition in tables.partitions(table):
        if partition.start.replace(tzinfo=UTC) <= moment:
            rows = tables.read(partition.path(table), where=pl.col("timestamp") <= moment)
            tables.write(partition.path(out), rows)


def _read_scores(files: Mapping[str, Path]) -> NDArray[np.float64]:
    """Read scores, which another commit's code may have written: numbers alone, as many as the file has bytes for.

    Raises
    ------
    ValueError
        If they are anything but probabilities and NaN.
    """
    found = []
    for _, path in sorted(files.items()):
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            content = file.read()
        if kind != np.float64 or shape != (len(content) // 8,):
            raise ValueError(f"{path.name} holds other values than a score for each row")
        found.append(np.frombuffer(content, np.float64))
    scores = np.concatenate(found)
    if not (np.isnan(scores) | ((scores >= 0) & (scores <= 1))).all():
        raise ValueError("a score is no probability")
    return scores


def _repartitioned(rows: Path, unit: str, out: Path) -> Path:
    """Return the table with partitions of another length: the features of another commit may have them."""
    listing = tables.partitions(rows)
    if listing[0].unit == unit:
        return rows
    for partition in listing:
        table = tables.read(partition.path(rows))
        days = table["timestamp"].dt.truncate("1d").unique().dt.replace_time_zone(None)
        for piece in sorted({tables.partition_at(day, unit) for day in days}):
            inside = pl.col("timestamp").is_between(*tables.utc(piece.start, piece.end), closed="left")
            path = piece.path(out)
            before = [tables.read(path)] if path.exists() else []
            tables.write(path, pl.concat([*before, table.filter(inside)]))
    return out


def _trusted_inputs(head: Revision, challenger: ScoredModel, truth: GroundTruth, history: History) -> dict[str, str]:
    """Return what the challenger's `train` reads instead of what its dvc.lock names.

    Its features are those that it is scored with, and its labels the base's if they are made in the same way.
    """
    if history.is_corrected:  # those are of other data
        return {}
    has_labels_of_base = stage_runs.recipe(truth.rules, LABELS) == stage_runs.recipe(head, LABELS)
    labels = {LABELS: truth.labels, CONSENSUS: truth.incidents} if has_labels_of_base else {}
    return {FEATURES: challenger.features, **labels}


def _train_again(
    challenger: ScoredModel, truth: GroundTruth, inputs: Mapping[str, str] | None = None
) -> Literal["same", "close"]:
    """Refuse a model that its commit's `train` does not make without the test part.

    Raises
    ------
    UserError
        If its bytes are others, and its figures further apart than types of CPU could bring them.
    """
    revision = challenger.revision
    again = retraining.train(revision, challenger.rule, inputs)
    if retraining.is_same(revision, again):
        return "same"
    both = {CHALLENGER: challenger, ANCHOR: replace(challenger, model=again)}
    scored = _score_rows(truth, challenger.rule, both)
    assert isinstance(scored, ScoredRows)
    known = scored.rows.filter(split_rule.HAS_LABEL)
    labels = known["label"].to_numpy()
    old, new = (row_metrics.row_metrics(labels, known[who].to_numpy(), scored.thresholds[who]) for who in both)
    if far := [f"{name} is {old[name]}, not {new[name]}" for name in old if not is_close(old[name], new[name])]:
        raise UserError(
            f"the model of commit {revision.name} is not the one that its `train` makes of its train and validation "
            f"parts; on the test rows {some_of(far)}, and types of CPU may differ by {TOLERANCE:.0%}. "
            "`dvc repro --force train` there, and commit what it writes"
        )
    return "close"


def _confirm(revision: Revision, scored: ScoredRows) -> None:
    """Refuse a commit whose own figures are not what its model gives on its own test rows.

    Raises
    ------
    UserError
        If they are further apart than two types of CPU could bring them.
    """
    recorded, threshold = revision.metrics[EVALUATION], scored.thresholds[CHALLENGER]
    rows = scored.rows.filter(split_rule.HAS_LABEL)
    found: dict[str, float | None] = {"rows": rows.height + sum(scored.excluded.values()), "threshold": threshold}
    if not scored.excluded:  # it evaluated itself on these rows
        measured = row_metrics.row_metrics(rows["label"].to_numpy(), rows[CHALLENGER].to_numpy(), threshold)
        found |= {figure: measured[figure] for figure in ("positives", "pr_auc", "brier")}
    for figure, value in found.items():
        if not math.isclose(_number(recorded.get(figure)), value or 0.0, rel_tol=TOLERANCE):
            raise UserError(
                f"{EVALUATION} of commit {revision.name} says {figure} {recorded.get(figure)}, and its model gives "
                f"{value:g} on the same rows: `dvc repro --force evaluate` there, and commit what it writes"
            )


def _number(figure: Any) -> float:
    """Return a figure of a metrics file, NaN if it is no number."""
    try:
        return math.nan if isinstance(figure, str) else float(figure)
    except (TypeError, OverflowError):
        return math.nan


def _model_size(revision: Revision) -> int:
    file = cache.locate(committed_model.files_of(revision)["model.skops"], f"the model of commit {revision.name}")
    return file.stat().st_size
