"""Series, as the API of Prometheus gives them, as rows: one value for each server and time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from crashcast.errors import UserError
from crashcast.params.base import PATH
from crashcast.params.collect import Collect
from crashcast.sources.http import in_short
from crashcast.sources.prometheus.queries import key_of
from crashcast.tables import TIMESTAMP

END_S = 253_402_300_800.0  # of the year 9999
COLUMNS = {"timestamp": TIMESTAMP, "server_id": pl.String, "group": pl.String, "value": pl.Float64}


def rows(series: list[dict[str, Any]], metric: str, collect: Collect) -> pl.DataFrame:
    """Turn series of the API into rows.

    Parameters
    ----------
    series : list
        `{"metric": labels, "values": [[seconds, text], ...]}`.
    metric : str
        Its name in params.yaml.
    collect : Collect
        Which labels are the server and the group.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `group`, `value`, in order of (timestamp, server_id); NaN and infinity are no values.

    Raises
    ------
    UserError
        If a series has no server, or a server two values at a moment.
    """
    servers, groups, counts = list[str](), list[str | None](), list[int]()
    try:
        for one in series:
            if "values" not in one:
                message = "gives native histograms: write histogram_quantile(0.99, ...) around it"
                raise UserError(f"{key_of(metric)} {message}")
            servers.append(_server(one["metric"], metric, collect))
            groups.append(one["metric"].get(collect.group_label) if collect.group_label else None)
            counts.append(len(one["values"]))
        seconds = _numbers([moment for one in series for moment, _ in one["values"]])
        values = _numbers([value for one in series for _, value in one["values"]])
        if not seconds.is_between(0, END_S, closed="left").all():
            raise ValueError("a time out of range")
        group = pl.Series(groups, dtype=pl.String)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        message = f"gives series that are not as Prometheus's API has them ({in_short(error)})"
        raise UserError(f"{key_of(metric)} {message}: what answers at {collect.url}?") from None
    moments = (seconds * 1e6).round().cast(pl.Int64)
    # servers are sorted once, and rows by numbers: names would take most of the time
    place = {server: number for number, server in enumerate(sorted({*servers}))}
    owners = np.repeat(np.arange(len(series)), counts)
    of_server = np.array([place[server] for server in servers], dtype=np.int64)[owners]
    order = np.lexsort((of_server, moments.to_numpy()))  # of one key, series stay in their order
    order = order[np.isfinite(values.to_numpy())[order]]
    owner = pl.Series(owners[order])
    frame = pl.DataFrame(
        {
            "timestamp": moments.gather(order).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "server_id": pl.Series(servers, dtype=pl.String).gather(owner),
            "group": group.gather(owner),
            "value": values.gather(order),
        }
    )
    repeats = (np.diff(moments.to_numpy()[order]) == 0) & (np.diff(of_server[order]) == 0)
    if repeats.any():
        at = int(repeats.argmax())
        first, second = (_labels(series[number]["metric"]) for number in owner[at : at + 2])
        moment, server = frame["timestamp"][at].strftime("%Y-%m-%d %H:%M"), frame["server_id"][at]
        message = f"{key_of(metric)} gives two values for {server} at {moment}: {first} and {second}"
        raise UserError(f"{message}; give one, such as with sum by ({collect.server_label}) (...)")
    return frame


def _numbers(given: list[Any]) -> pl.Series:
    """Return numbers, or texts of numbers, as float64; as Python reads them, but several times faster."""
    if {*map(type, given)} == {str}:
        texts = pl.Series(given, dtype=pl.String)
        found = texts.cast(pl.Float64, strict=False)
        unread = found.is_null().arg_true()  # such as +Inf, or no number at all
        return found.scatter(unread, [float(text) for text in texts.gather(unread)]) if len(unread) else found
    return pl.Series(np.fromiter(map(float, given), np.float64, len(given)))


def _server(labels: Mapping[str, str], metric: str, collect: Collect) -> str:
    if collect.server_label not in labels:
        message = f"{key_of(metric)} gives series without the label {collect.server_label}: {_labels(labels)}"
        raise UserError(f"{message}; keep it, such as with sum by ({collect.server_label}) (...), or see server_label")
    match = re.fullmatch(collect.server_pattern, labels[collect.server_label])
    if match is None or not match[1]:
        message = f"collect.server_pattern does not match {collect.server_label}='{labels[collect.server_label]}'"
        raise UserError(f"{PATH}: {message}, of {key_of(metric)}")
    return match[1]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}={value!r}" for name, value in sorted(labels.items())) + "}"
