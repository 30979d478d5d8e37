"""One tick of `crashcast serve`: new samples, scores, alarms, and what is wrong if something is.

A tick issues the scores of each moment that was not scored yet, by appending them to the log. Which alarms stand then
follows from the log alone, so a process that was killed goes on with the same alarms. Each row of a server is issued
once. If its input changes later, the difference is listed, and what was issued stays.

A tick never fails because of its input. What it lacks is named in the state's problems:

- `prometheus`: the server gave no answer, or no whole and right one; the moment is not scored
- `history`: the samples do not reach back as far as the windows of the features; the moment is not scored
- `clock`: the clock says less than at an earlier tick; nothing is scored
- `silent`: at least half of the fleet has no sample in the newest interval, or no server can be scored
- `metrics`: a metric has no value on any server
- `tickets`: the records of incidents ended too long ago, or cannot be read; the history of crashes counts as missing
- `disk`, `log`: the tail or the log cannot be written; what is not in the log is not issued
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from crashcast import files, tables
from crashcast.errors import UserError, refusal
from crashcast.incidents import read_incidents
from crashcast.modeling.alarms import AlarmWindow
from crashcast.operate import issued_alarms, served_log, telemetry_tail
from crashcast.operate.coverage import known_by_now, with_groups
from crashcast.operate.deployment import Deployment
from crashcast.operate.holdback import is_held_back
from crashcast.operate.look_back import LookBack
from crashcast.operate.reasons import Reason, reasons
from crashcast.operate.score import Samples, Scores, last_row, oldest_row, samples_needed, score_samples
from crashcast.operate.served_log import ServedLog, aware
from crashcast.operate.state import Alarm, EndedAlarm, State
from crashcast.operate.telemetry_tail import TAIL, Tail
from crashcast.params.base import DAY, format_duration
from crashcast.params.collect import Collect
from crashcast.params.serve import Serve
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, TICKET_SOURCES_PATH
from crashcast.sources.prometheus.client import Server
from crashcast.tables import Partition
from crashcast.text import counted, some_of
from stages.clean import clean_partition, samples_period

PATIENCE_S = 60.0  # with a Prometheus that does not answer: the next tick asks again
DIGITS = 16  # of a digest
DECISION = ["server_id", "opened_at", "delivered"]
CRASHES: dict[str, Any] = {"server_id": pl.String, "started_at": tables.TIMESTAMP}


@dataclass(frozen=True)
class Service:
    """What the ticks of one process share.

    Attributes
    ----------
    serve, collect : Serve, Collect
        The sections of params.yaml.
    prometheus : Server
    log : ServedLog
    tail : Path
        Where the newest telemetry is kept.
    incidents, coverage, ticket_sources : Path
        Records of incidents, read again at each tick.
    look_back : LookBack
        The samples that the last scores came from.
    checked : dict of datetime to str
        The digest of the samples with which a moment's scores were last compared with those issued.
    """

    serve: Serve
    collect: Collect
    prometheus: Server
    log: ServedLog
    tail: Path = TAIL
    incidents: Path = INCIDENTS_PATH
    coverage: Path = COVERAGE_PATH
    ticket_sources: Path = TICKET_SOURCES_PATH
    look_back: LookBack = field(default_factory=LookBack)
    checked: dict[datetime, str] = field(default_factory=dict)

    @classmethod
    def of(cls, serve: Serve, collect: Collect) -> Service:
        """Return the service that params.yaml describes.

        Raises
        ------
        UserError
            If a secret or a certificate for the server is no such thing.
        """
        server = Server(
            collect.url, headers=collect.headers, patience_s=PATIENCE_S, advice="the next tick asks it again"
        )
        return cls(serve, collect, server, ServedLog(serve.log))


def tick(deployment: Deployment, service: Service, now: datetime, before: State | None = None) -> State:
    """Score what is due, and return what is known then.

    Parameters
    ----------
    deployment : Deployment
        The model in use.
    service : Service
    now : datetime
        Naive, meaning UTC. The newest moment that is scored ended `serve.delay` before.
    before : State, optional
        After the last tick of this process.
    """
    return _Tick(deployment, service, now, before).run()


class _Tick:
    """The work of one tick; `problems` grows on the way."""

    def __init__(self, deployment: Deployment, service: Service, now: datetime, before: State | None) -> None:
        self.deployment, self.service, self.now, self.before = deployment, service, now, before
        self.interval = deployment.telemetry.interval
        self.window = AlarmWindow.of(deployment.label, self.interval)
        self.moment = last_row(now - service.serve.delay, self.interval)
        late_window = service.serve.late_window
        self.late = late_window + telemetry_tail.late_period(late_window, self.interval)  # so old a row may change
        self.problems: dict[str, str] = {}
        self.scores: Scores | None = None  # of the newest moment that this tick scored
        self.newest_ticket: datetime | None = None
        self.incidents, self.coverage = service.incidents, service.coverage
        self.refreshed = self.moment  # older rows were not asked for again
        self.revised = 0

    def run(self) -> State:
        begun = time.monotonic()
        tail, openings = None, None
        try:
            issued = self.service.log.last()
            if self._clock_is_right(issued):
                tail = self._issue(issued)
            openings = self.service.log.alarms(max(self.moment, issued or self.moment), self.window)
        except UserError as error:
            self.problems["log"] = str(error)
        except OSError as error:
            self.problems["disk"] = _words(error)
        groups = self.groups
        self._warn_of_unknown_names(groups)
        alarms = self._alarms(openings, groups)
        before = self.before or State(self.now, timedelta(0), None)
        return replace(
            before,
            ticked_at=self.now,
            duration=timedelta(seconds=time.monotonic() - begun),
            scores=self.scores or before.scores,
            alarms=alarms,
            ended=before.ended if (ended := self._ended()) is None else ended,
            problems=self.problems,
            newest_sample=tail.newest if tail else before.newest_sample,
            newest_ticket=self.newest_ticket or before.newest_ticket,
            late_revisions=before.late_revisions + self.revised,
            groups=groups or before.groups,
            recent=self._recent(alarms, tail),
        )

    def _clock_is_right(self, issued: datetime | None) -> bool:
        latest = max(self.moment, issued or self.moment)
        if self.before:
            latest = max(latest, last_row(self.before.ticked_at - self.service.serve.delay, self.interval))
        if self.moment < latest:
            self.problems["clock"] = (
                f"the clock says {self.now:%Y-%m-%d %H:%M} UTC, but {latest:%Y-%m-%d %H:%M} was scored "
                "already: nothing is scored before the next interval; see whether the clock is right"
            )
        return self.moment >= latest

    def _issue(self, issued: datetime | None) -> Tail | None:
        """Score all moments that are due, and what changed since it was scored; return the tail, if it was updated."""
        due = self._due(issued)
        tail = self._update(due, issued)
        if tail is None:
            return None
        self._read_tickets()
        if issued is not None:
            self._tell_of_gap(issued, due)
            self._write_alarms(issued, None, tail)  # of a process that was killed before it did
        for moment in due:
            if found := self._score(moment, tail):
                self._write_scores(moment, found, tail)
                self._write_alarms(moment, found, tail)
                self.scores = found
        if not due and self.before is None:
            self.scores = self._score(self.moment, tail)  # for people, after a restart within an interval
        if issued is not None:
            self._write_revisions(issued, tail)
        needed, _ = samples_needed(self.deployment, self.moment - self.late)
        return telemetry_tail.prune(tail, needed, self.service.collect, self.deployment.telemetry)

    def _due(self, issued: datetime | None) -> list[datetime]:
        """Return the moments that were not scored and whose forecast is not over; at the first start the newest one."""
        if issued is None:
            return [self.moment]
        missed = [issued + (n + 1) * self.interval for n in range((self.moment - issued) // self.interval)]
        return [moment for moment in missed if moment + self.window.duration > self.moment]

    def _tell_of_gap(self, issued: datetime, due: Sequence[datetime]) -> None:
        first, end = issued + self.interval, min(due, default=self.moment)
        if first < end:
            number, last = counted((end - first) // self.interval, "moment"), end - self.interval
            print(
                f"serve: {number} from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC passed without scores, and "
                "their forecasts would be over",
                file=sys.stderr,
            )

    def _warn_of_unknown_names(self, groups: Mapping[str, str]) -> None:
        """Warn once if `never_hold_back` names a server that is not in the fleet: a mistyped one would be held back."""
        if self.before is not None or self.scores is None or not self.service.serve.holdback:
            return
        known = {*self.scores.rows["server_id"], *self.scores.silent, *groups}
        if unknown := [name for name in self.service.serve.never_hold_back if name not in known]:
            print(
                f"serve: serve.never_hold_back names {some_of(unknown)}, and no such server was scored: see whether "
                "the names are right",
                file=sys.stderr,
            )

    def _update(self, due: Sequence[datetime], issued: datetime | None) -> Tail | None:
        service, telemetry, late_window = self.service, self.deployment.telemetry, self.service.serve.late_window
        try:
            tail = telemetry_tail.read(service.tail, service.collect, telemetry)
            asked = min(filter(None, [issued, tail.late_asked]), default=self.moment)
            self.refreshed = asked - self.late
            oldest = min(due, default=self.moment) - self.late  # for what was issued and may change
            start = last_row(samples_needed(self.deployment, oldest)[0], self.interval)
            tail, found = telemetry_tail.update(
                tail, service.prometheus, service.collect, telemetry, start, self.moment, late_window
            )
        except UserError as error:
            self.problems["prometheus"] = str(error)
            return None
        except OSError as error:
            self.problems["disk"] = _words(error)
            return None
        newest = found.filter(pl.col("timestamp") == aware(self.moment))
        missing = [name for name in telemetry.metrics if newest[name].null_count() == newest.height]
        if newest.height and missing:
            self.problems["metrics"] = f"no server has {some_of(missing)}: see whether its exporter and its query work"
        return tail

    def _read_tickets(self) -> None:
        """Choose the records of incidents to score with: empty ones if they are stale, which makes features null."""
        place = self.service.tail.parent
        self.incidents, self.coverage = self.service.incidents, place / COVERAGE_PATH.name
        oldest = self.moment - self.service.serve.max_ticket_age
        try:
            read_incidents(self.incidents, self.deployment.incidents)
            known = known_by_now(self.service.coverage, self.service.ticket_sources)
            newest = known["covered_to"].max()
            self.newest_ticket = newest.replace(tzinfo=None) if isinstance(newest, datetime) else None
            age = format_duration(self.service.serve.max_ticket_age)
            words = (
                f"{self.service.coverage} covers no server"
                if self.newest_ticket is None
                else f"the records of incidents end on {self.newest_ticket:%Y-%m-%d %H:%M} UTC, longer ago than "
                f"serve.max_ticket_age ({age}): `crashcast incidents` brings newer ones"
            )
        except (UserError, pl.exceptions.PolarsError) as error:  # the latter of columns with other types
            words = f"the records of incidents cannot be read ({error})"
        if self.newest_ticket is None or self.newest_ticket < oldest:
            self.problems["tickets"] = f"{words}; until then the history of crashes counts as missing"
            self.incidents, known = place / INCIDENTS_PATH.name, pl.DataFrame(schema=tables.COVERAGE)  # type: ignore[arg-type]
            _write_changed(self.incidents, pl.DataFrame(schema=tables.INCIDENTS))  # type: ignore[arg-type]
        if self.deployment.features.categories:
            known = with_groups(known, self.groups)
        _write_changed(self.coverage, known)

    def _score(self, moment: datetime, tail: Tail) -> Scores | None:
        """Score the fleet at a moment; None, and the reason among the problems, if that cannot be done."""
        start, _ = samples_needed(self.deployment, moment)
        if not tail.is_whole(start, self.interval):
            since = "never" if tail.first is None else f"on {tail.first:%Y-%m-%d %H:%M} UTC"
            self.problems["history"] = (
                f"the scores of {moment:%Y-%m-%d %H:%M} UTC look back to {start:%Y-%m-%d %H:%M}, and the first sample "
                f"of {self.service.collect.url} was {since}"
            )
            return None
        try:
            assert tail.newest is not None
            period, telemetry = samples_needed(self.deployment, moment), self.deployment.telemetry
            samples = Samples(self.service.look_back.read(tail, *period, telemetry), tail.newest, tail.folder)
            found = score_samples(self.deployment, moment, samples, self.incidents, self.coverage)
        except UserError as error:
            if telemetry_tail.is_damaged(tail):
                self.problems["disk"] = f"{error}; the next tick fetches it"
            else:
                self.problems["silent"] = str(error)
            return None
        if moment == self.moment:
            fresh, servers = found.rows.filter(age=timedelta(0)).height, found.rows.height + len(found.silent)
            if 2 * fresh <= servers:
                self.problems["silent"] = (
                    f"{servers - fresh:,} of {counted(servers, 'server')} have no sample in the newest interval: "
                    "their scores are older, or missing"
                )
        return found

    def _write_scores(self, moment: datetime, found: Scores, tail: Tail) -> None:
        """Append the rows that were not issued before."""
        log, model = self.service.log, self.deployment.model
        earlier = log.read("scores", log.moments("scores", moment - self.window.duration), list(tables.KEYS))
        samples, incidents = tail.digest(*samples_needed(self.deployment, moment)), self._digest_of_tickets()
        is_own = log.write(
            "scores",
            moment,
            found.rows.join(earlier, on=list(tables.KEYS), how="anti")
            .sort("server_id")
            .with_columns(
                moment=pl.lit(aware(moment)),
                score="risk",
                threshold=pl.lit(model.threshold),
                model=pl.lit(self.deployment.name),
                samples=pl.lit(samples),
                incidents=pl.lit(incidents),
            ),
        )
        if is_own:  # what another instance issued may have come from other samples
            self.service.checked[moment] = samples

    def _digest_of_tickets(self) -> str:
        digests = "".join(files.sha256(path) for path in (self.incidents, self.coverage))
        return hashlib.sha256(digests.encode()).hexdigest()[:DIGITS]

    def _write_alarms(self, moment: datetime, found: Scores | None, tail: Tail) -> None:
        """Append the alarms that the scores of a moment open, unless that was done already."""
        log = self.service.log
        opened = log.alarms(moment, self.window).filter(pl.col("moment") == aware(moment))
        if opened.is_empty() or log.last("alarms") == moment:
            return
        if found is None and opened["model"][0] == self.deployment.name:
            found = self._score(moment, tail)
        known = set(found.rows["server_id"]) if found else set()
        why = [
            [reason._asdict() for reason in reasons(found, server)] if found and server in known else []
            for server in opened["server_id"]
        ]
        reasons_of = pl.Series("reasons", why, dtype=served_log.ALARMS["reasons"])
        delivered = pl.Series("delivered", self._are_delivered(moment, opened), dtype=pl.Boolean)
        log.write(
            "alarms",
            moment,
            opened.with_columns(reasons_of, delivered, ends_at=pl.col("timestamp") + self.window.duration),
        )

    def _are_delivered(self, moment: datetime, opened: pl.DataFrame) -> list[bool]:
        """Return whether each alarm is delivered: the opening is drawn, a renewal follows what was issued before it."""
        log = self.service.log
        earlier = log.read("alarms", log.moments("alarms", moment - 2 * self.window.duration), DECISION)
        issued = {(server, opened_at): is_delivered for server, opened_at, is_delivered in earlier.iter_rows()}
        return [
            issued.get((server, opened_at), self._is_to_be_delivered(server, opened_at))
            for server, opened_at in opened.select("server_id", "opened_at").iter_rows()
        ]

    def _is_to_be_delivered(self, server: str, opened_at: datetime) -> bool:
        return not is_held_back(self.service.serve, server, opened_at.replace(tzinfo=None))

    def _write_revisions(self, issued: datetime, tail: Tail) -> None:
        """Score again what was issued from samples that have changed since, and append the scores that differ."""
        log, checked = self.service.log, self.service.checked
        needed = {one: samples_needed(self.deployment, one) for one in log.moments("scores", self.refreshed)}
        moments = [one for one in needed if one <= issued and tail.is_whole(needed[one][0], self.interval)]
        digests = {one: tail.digest(*needed[one]) for one in moments}
        found = {}
        for moment in moments:
            if checked.get(moment) != digests[moment]:
                frame = log.read("scores", [moment]).head(1)
                is_same = frame.filter(samples=digests[moment]).height > 0
                is_comparable = frame.filter(model=self.deployment.name).height > 0
                if not is_same and is_comparable and (scores := self._score(moment, tail)):
                    found[moment] = scores
                else:
                    checked[moment] = digests[moment]
        if found:
            revisions = self._differences(found, digests)
            if revisions.is_empty() or log.write("revisions", self.moment, revisions):
                self.revised += revisions.height
                checked.update({moment: digests[moment] for moment in found})

    def _differences(self, found: Mapping[datetime, Scores], digests: Mapping[datetime, str]) -> pl.DataFrame:
        """Return the rows whose score differs from the one that was issued, or from the last revision of it."""
        log, keys = self.service.log, list(tables.KEYS)
        since = min(found) - self.window.duration
        issued = log.read("scores", log.moments("scores", since), [*keys, "moment", "score"]).rename(
            {"score": "issued"}
        )
        revised = log.read("revisions", log.moments("revisions", since)).sort("moment").unique(keys, keep="last")
        listed = []
        for moment, scores in found.items():
            now = scores.rows.select(*keys, later="risk")
            newest = now.select("server_id", newest="timestamp")
            # what was the newest row then, and is none at all now
            gone = (
                issued.filter(moment=aware(moment))
                .join(newest, on="server_id", how="left")
                .filter((pl.col("newest") < pl.col("timestamp")).fill_null(True))
                .select(*keys, later=pl.lit(None, pl.Float64))
            )
            listed.append(pl.concat([now, gone]).with_columns(samples=pl.lit(digests[moment])))
        return (
            pl.concat(listed)
            .unique(keys, keep="last")
            .join(issued.drop("moment"), on=keys, how="left")
            .join(revised.select(*keys, known="later", is_revised=pl.lit(True)), on=keys, how="left")
            .filter(pl.col("later").ne_missing(pl.when("is_revised").then("known").otherwise("issued")))
            .with_columns(moment=pl.lit(aware(self.moment)), model=pl.lit(self.deployment.name))
            .sort(keys)
        )

    def _alarms(self, openings: pl.DataFrame | None, groups: Mapping[str, str]) -> list[Alarm]:
        """Return the delivered alarms that stand; if the log cannot be read, those of the last tick that still stand.

        Alarms that are held back are left out here, so that no page, metric or alert can tell of them.
        """
        if openings is None:
            return [alarm for alarm in (self.before.alarms if self.before else ()) if alarm.ends_at > self.moment]
        found = served_log.standing(openings, self.moment, self.window.duration)
        issued = self._issued(found)
        alarms = []
        for row in found.iter_rows(named=True):
            server, opened_at, renewed_at = row["server_id"], row["opened_at"], row["timestamp"]
            why, is_delivered = issued.get((renewed_at, server), ((), self._is_to_be_delivered(server, opened_at)))
            if is_delivered:
                naive = renewed_at.replace(tzinfo=None)
                alarms.append(
                    Alarm(
                        server_id=server,
                        group=groups.get(server),
                        opened_at=opened_at.replace(tzinfo=None),
                        renewed_at=naive,
                        ends_at=naive + self.window.duration,
                        risk=row["score"],
                        reasons=why,
                    )
                )
        return alarms

    def _issued(self, alarms: pl.DataFrame) -> dict[tuple[datetime, str], tuple[Sequence[Reason], bool]]:
        """Return the reasons of alarms, and whether they were delivered, as they were issued."""
        log, wanted = self.service.log, {moment.replace(tzinfo=None) for moment in alarms["moment"]}
        try:
            moments = log.moments("alarms", min(wanted)) if wanted else []
            issued = log.read("alarms", [moment for moment in moments if moment in wanted])
        except (UserError, OSError) as error:
            self.problems["log"] = _words(error)
            return {}
        return {
            (at, server): ([Reason(**reason) for reason in why], is_delivered)
            for at, server, why, is_delivered in issued.select(*tables.KEYS, "reasons", "delivered").iter_rows()
        }

    def _ended(self) -> list[EndedAlarm] | None:
        """Return the alarms that ended in the last day, with the crashes that are known; None if the log is away."""
        since = self.moment - DAY
        try:
            found = issued_alarms.recent(self.service.log, since - 2 * self.window.duration)
        except (UserError, OSError) as error:
            self.problems["log"] = _words(error)
            return None
        over = found.filter(pl.col("ends_at").is_between(aware(since), aware(self.moment)))
        crashes = pl.DataFrame(schema=CRASHES)
        with suppress(UserError, pl.exceptions.PolarsError):  # the problem `tickets` tells of it
            read = tables.read(self.service.incidents, ["kind", *CRASHES]).filter(kind=tables.CRASH)
            crashes = read.select(pl.col(name).cast(kind) for name, kind in CRASHES.items())
        followed = issued_alarms.with_crash(over, crashes, timedelta(0), "ends_at").sort("ends_at", descending=True)
        naive = [pl.col(name).dt.replace_time_zone(None) for name in ("opened_at", "ends_at", "crashed_at")]
        rows = followed.select("server_id", *naive[:2], "score", "delivered", naive[2])
        return [EndedAlarm(*row) for row in rows.iter_rows()]

    @cached_property
    def groups(self) -> dict[str, str]:
        """Return the group of each server: the newest that telemetry names, or else that of the records."""
        found: dict[str, str] = {}
        with suppress(UserError, OSError):
            found |= dict(tables.read(self.service.coverage, ["server_id", "group"]).drop_nulls("group").iter_rows())
        if self.service.collect.group_label:
            with suppress(UserError, OSError):
                since = oldest_row(self.deployment, self.moment)
                found |= telemetry_tail.newest_groups(self.service.tail, since)
        return found

    def _recent(self, alarms: Sequence[Alarm], tail: Tail | None) -> pl.DataFrame | None:
        """Return the clean rows of the last day of the servers with an alarm."""
        if not alarms:
            return None
        telemetry, clean = self.deployment.telemetry, self.deployment.clean
        end = self.moment + self.interval
        period = Partition(end - DAY, end, telemetry.partition)
        servers = pl.col("server_id").is_in([alarm.server_id for alarm in alarms])
        try:
            known = tail or telemetry_tail.read(self.service.tail, self.service.collect, telemetry)
            pieces = self.service.look_back.read(known, *samples_period(period, telemetry, clean), telemetry)
        except (UserError, OSError):
            return self.before.recent if self.before else None
        samples = pl.concat(piece.filter(servers) for piece in pieces).sort(*tables.KEYS)
        rows, _ = clean_partition(period, samples, telemetry, clean)
        return rows.select(*tables.KEYS, *telemetry.metrics)


def _write_changed(path: Path, frame: pl.DataFrame) -> None:
    """Write a table, unless it is there already."""
    with suppress(UserError):  # missing or damaged
        if (before := tables.read(path)).schema == frame.schema and before.equals(frame):
            return
    tables.write(path, frame)


def _words(error: UserError | OSError) -> str:
    return str(refusal(error) or error)
