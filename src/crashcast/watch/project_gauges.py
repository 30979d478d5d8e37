"""What the project's own files say, as gauges: the model in use, the data, and the space that is left."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from crashcast import tables
from crashcast.doctor import garbage
from crashcast.errors import UserError
from crashcast.execution import memo
from crashcast.operate.deployment import find_revision
from crashcast.operate.textfile import Sample
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TELEMETRY_PATH
from crashcast.registry import models
from crashcast.versioning import cache
from crashcast.versioning.revision import EVALUATION
from crashcast.watch.due import data_end

VALIDATED = Path("data/validated.json")
FIGURES = {  # of the evaluation at the model's commit
    "pr_auc": "Area under the precision-recall curve of the model's test.",
    "pr_auc_low": "Lower limit of it.",
    "pr_auc_high": "Upper limit of it.",
    "base_rate": "Share of crash rows in the model's test: what chance reaches as area.",
    "event_recall": "Share of crashes that the model warned of in its test.",
    "event_recall_low": "Lower limit of it.",
    "event_recall_high": "Upper limit of it.",
    "alarm_precision": "Share of alarms of the model's test that a crash followed.",
    "false_alarms_per_server_day": "False alarms of the model's test.",
    "false_alarm_budget": "False alarms per server and day that the threshold was chosen for.",
    "mean_score_over_base_rate": "Expected over observed crash rows in the model's test.",
}


def samples(with_remote: bool = False) -> Iterator[Sample]:
    """Yield all gauges; those of the model only if there is one.

    Parameters
    ----------
    with_remote : bool
        List all objects of DVC's remote, too.

    Raises
    ------
    UserError
        If raw data cannot be read, or the remote does not answer.
    """
    yield from _of_data()
    yield from _of_storage(with_remote)
    try:
        yield from [*_of_model()]
    except UserError as error:
        print(f"metrics: no figures of a model: {error}", file=sys.stderr)


def _of_model() -> Iterator[Sample]:
    name, revision, _ = find_revision()
    labels = {"model": name}
    ended = data_end(revision).replace(tzinfo=UTC).timestamp()
    yield Sample("crashcast_model_known_to_timestamp_seconds", "End of the data of the model's commit.", ended, labels)
    figures = revision.metrics.get(EVALUATION, {})
    for figure, meaning in FIGURES.items():
        if isinstance(value := figures.get(figure), int | float):
            yield Sample(f"crashcast_model_{figure}", meaning, value, labels)
    for known in models():
        about = {"model": known.version, "verdict": known.verdict or "none", "stages": ",".join(known.stages)}
        yield Sample("crashcast_model_version", "A registered version, and the verdict on it.", 1, about)


def _of_data() -> Iterator[Sample]:
    last = tables.partitions(TELEMETRY_PATH)[-1].path(TELEMETRY_PATH)
    moments = {
        "newest_sample": ("Time of the newest sample.", _newest(last, "timestamp")),
        "records_end": ("Up to when incidents are known.", _newest(COVERAGE_PATH, "covered_to")),
        "newest_ticket": ("Start of the newest incident.", _newest(INCIDENTS_PATH, "started_at")),
    }
    for name, (meaning, moment) in moments.items():
        if moment is not None:
            yield Sample(f"crashcast_data_{name}_timestamp_seconds", meaning, moment.timestamp(), {})
    if VALIDATED.exists():
        found = json.loads(VALIDATED.read_text(encoding="utf-8"))["figures"]
        for severity in ("warnings", "critical_failures"):
            about = {"severity": severity}
            yield Sample("crashcast_data_validation_findings", "Expectations that failed.", found[severity], about)


def _of_storage(with_remote: bool) -> Iterator[Sample]:
    disk, left = shutil.disk_usage("."), "Bytes that are left on the project's disk."
    yield Sample("crashcast_disk_free_bytes", left, disk.free, {})
    yield Sample("crashcast_disk_size_bytes", "Size of the project's disk.", disk.total, {})
    for store, folder in (("cache", cache.root()), ("memo", cache.shared_root() / memo.NAME)):
        number, size_bytes = _extent(folder)
        yield Sample("crashcast_store_objects", "Files in a store.", number, {"store": store})
        yield Sample("crashcast_store_bytes", "Size of a store.", size_bytes, {"store": store})
    if with_remote:
        place = garbage.find(on_remote=True)[-1]
        unneeded = sum(size_bytes for size_bytes, _ in place.found.values())
        oldest_s = max((age_s for _, age_s in place.found.values()), default=0)
        objects = {"needed": place.kept, "unneeded": len(place.found)}
        for use, number in objects.items():
            yield Sample("crashcast_remote_objects", "Objects on DVC's remote.", number, {"use": use})
        yield Sample("crashcast_remote_unneeded_bytes", "Size of objects that no commit needs.", unneeded, {})
        yield Sample("crashcast_remote_unneeded_age_seconds", "Age of the oldest of them.", oldest_s, {})


def _newest(table: Path, column: str) -> datetime | None:
    found = tables.read(table, [column])[column].max()
    return found if isinstance(found, datetime) else None


def _extent(folder: Path) -> tuple[int, int]:
    """Return the number of files below a folder, and their size; those that go meanwhile are left out."""
    sizes = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            stat = path.lstat()
            if S_ISREG(stat.st_mode):
                sizes.append(stat.st_size)
    return len(sizes), sum(sizes)
