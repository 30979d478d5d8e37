"""Exports of samples in the forms that tools write: an import must find the same samples in each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from crashcast.sources.importing.layouts import Layout

KEYS = ("timestamp", "server_id")
Write = Callable[[pl.DataFrame, Path], None]


@dataclass(frozen=True)
class Form:
    """A form, and how it is brought in.

    Attributes
    ----------
    condition : str
        For the table in the docs.
    write : callable
        Writes `timestamp` in UTC, `server_id` and metrics into a folder, which is then imported.
    options : mapping
        Of `import_files`.
    """

    condition: str
    write: Write
    options: Mapping[str, Any] = field(default_factory=dict)


def zulu(frame: pl.DataFrame) -> pl.DataFrame:
    """Write times as text."""
    return frame.with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"))


def metrics_of(frame: pl.DataFrame) -> list[str]:
    """Return the names of the metrics."""
    return [name for name in frame.columns if name not in KEYS]


def as_csv(frame: pl.DataFrame, folder: Path) -> None:
    zulu(frame).write_csv(folder / "samples.csv")


def as_parquet(frame: pl.DataFrame, folder: Path) -> None:
    frame.write_parquet(folder / "samples.parquet")


def as_tsv(frame: pl.DataFrame, folder: Path) -> None:
    zulu(frame).write_csv(folder / "samples.tsv", separator="\t")


def as_semicolons(frame: pl.DataFrame, folder: Path) -> None:
    local = frame.with_columns(pl.col("timestamp").dt.strftime("%d.%m.%Y %H:%M:%S%.f +00:00"))
    numbers = [pl.col(name).cast(pl.String).str.replace(".", ",", literal=True) for name in metrics_of(frame)]
    local.with_columns(*numbers).write_csv(folder / "samples.csv", separator=";")


def packed(name: str, compression: str) -> Write:
    def write(frame: pl.DataFrame, folder: Path) -> None:
        buffer = io.BytesIO()
        zulu(frame).write_csv(buffer)
        with pa.output_stream(str(folder / name), compression=compression) as stream:
            stream.write(buffer.getvalue())

    return write


def as_json_lines(frame: pl.DataFrame, folder: Path) -> None:
    rows = zulu(frame).iter_rows(named=True)
    lines = [
        json.dumps({"@timestamp": row.pop("timestamp"), "host": {"name": row.pop("server_id")}} | row) for row in rows
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines))


def as_json(frame: pl.DataFrame, folder: Path) -> None:
    (folder / "samples.json").write_text(json.dumps({"took": 3, "records": zulu(frame).to_dicts()}))


def long_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each value."""
    return frame.unpivot(index=KEYS, variable_name="metric").drop_nulls("value")


def as_long(frame: pl.DataFrame, folder: Path) -> None:
    zulu(long_of(frame)).rename({"server_id": "instance"}).write_csv(folder / "samples.csv")


def series_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    found = []
    for (server, metric), rows in long_of(frame).partition_by("server_id", "metric", as_dict=True).items():
        seconds = (rows["timestamp"].dt.epoch("us") / 1e6).to_list()
        values = [[moment, str(value)] for moment, value in zip(seconds, rows["value"], strict=True)]
        found.append({"metric": {"__name__": metric, "instance": f"{server}:9100", "job": "node"}, "values": values})
    return found


def as_prometheus(frame: pl.DataFrame, folder: Path) -> None:
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series_of(frame)}}
    (folder / "query_range.json").write_text(json.dumps(answer))


def as_victoriametrics(frame: pl.DataFrame, folder: Path) -> None:
    lines = []
    for series in series_of(frame):
        moments, values = zip(*series["values"], strict=True)
        lines.append(
            {
                "metric": series["metric"],
                "values": list(map(float, values)),
                "timestamps": [round(1000 * m) for m in moments],
            }
        )
    (folder / "export.jsonl").write_text("\n".join(map(json.dumps, lines)))


def as_influx(frame: pl.DataFrame, folder: Path) -> None:
    head = "#group,false,false,true,true,false,false,true,true,true\n#datatype,string,long,dateTime:RFC3339,"
    head += "dateTime:RFC3339,dateTime:RFC3339,double,string,string,string\n#default,_result,,,,,,,,\n"
    head += ",result,table,_start,_stop,_time,_value,_field,_measurement,host\n"
    tables = []
    for number, ((server, metric), rows) in enumerate(
        long_of(zulu(frame)).partition_by("server_id", "metric", as_dict=True).items()
    ):
        measurement, name = metric.split("_", 1)
        lines = [
            f",,{number},2026-01-01T00:00:00Z,2027-01-01T00:00:00Z,{t},{v},{name},{measurement},{server}"
            for t, _, _, v in rows.rows()
        ]
        tables.append(head + "\n".join(lines) + "\n")
    (folder / "export.csv").write_text("\n".join(tables))


def as_wide(frame: pl.DataFrame, folder: Path) -> None:
    for name in metrics_of(frame):
        zulu(frame).pivot("server_id", index="timestamp", values=name).write_csv(folder / f"{name}.csv")


def as_wide_with_ports(frame: pl.DataFrame, folder: Path) -> None:
    as_wide(frame.with_columns(pl.col("server_id") + ":9100"), folder)


def as_wide_with_labels(frame: pl.DataFrame, folder: Path) -> None:
    one = zulu(frame).select("timestamp").unique(maintain_order=True)
    for server in frame["server_id"].unique(maintain_order=True):
        names = {name: f'{name}{{instance="{server}:9100", job="node"}}' for name in metrics_of(frame)}
        of_server = zulu(frame).filter(server_id=server).drop("server_id").rename(names)
        one = one.join(of_server, on="timestamp", how="left", maintain_order="left")
    one.rename({"timestamp": "Time"}).write_csv(folder / "grafana.csv")


def as_wide_of_words(frame: pl.DataFrame, folder: Path) -> None:
    one = zulu(frame).select("timestamp").unique(maintain_order=True)
    for server in frame["server_id"].unique(maintain_order=True):
        names = {name: f"{server}: {name}" for name in metrics_of(frame)}
        of_server = zulu(frame).filter(server_id=server).drop("server_id").rename(names)
        one = one.join(of_server, on="timestamp", how="left", maintain_order="left")
    one.write_csv(folder / "sheet.csv")


def as_file_for_each_metric(frame: pl.DataFrame, folder: Path) -> None:
    for name in metrics_of(frame):
        zulu(frame).select(*KEYS, name).drop_nulls(name).write_csv(folder / f"{name}.csv")


def as_values_for_each_metric(frame: pl.DataFrame, folder: Path) -> None:
    for name in metrics_of(frame):
        values = zulu(frame).select("timestamp", "server_id", value=name).drop_nulls("value")
        values.write_csv(folder / f"{name}_2026-10.csv")


def as_file_for_each_server(frame: pl.DataFrame, folder: Path) -> None:
    for (server,), rows in zulu(frame).partition_by("server_id", as_dict=True, include_key=False).items():
        rows.write_csv(folder / f"metrics_{server}_2026-10.csv")


def as_folder_for_each_server(frame: pl.DataFrame, folder: Path) -> None:
    for (server,), rows in frame.partition_by("server_id", as_dict=True, include_key=False).items():
        (folder / f"host={server}").mkdir()
        rows.write_parquet(folder / f"host={server}" / "part-0.parquet")


def as_dotted(frame: pl.DataFrame, folder: Path) -> None:
    zulu(frame).rename({name: f"sys.{name}[5m]" for name in metrics_of(frame)}).write_csv(folder / "samples.csv")


def table() -> str:
    """Return the table in docs/import.md."""
    rows = [f"| {name} | {form.condition} |" for name, form in FORMS.items()]
    return "\n".join(["| form of telemetry | condition |", "|---|---|", *rows])


FORMS: dict[str, Form] = {
    "a row for each server and time, CSV": Form("a column for each metric", as_csv),
    "the same, Parquet": Form("", as_parquet),
    "the same, TSV": Form("", as_tsv),
    "the same, CSV with `;` and decimal commas": Form("", as_semicolons),
    "the same, gzip": Form("`.csv.gz`, `.jsonl.gz` and so on", packed("samples.csv.gz", "gzip")),
    "the same, zstd": Form("`.csv.zst`, `.jsonl.zst` and so on", packed("samples.csv.zst", "zstd")),
    "JSON lines": Form("`.jsonl` or `.ndjson`; groups become columns such as `host.name`", as_json_lines),
    "JSON": Form("a list of objects, or one below a key", as_json),
    "a row for each metric (long)": Form(
        "its name is in a column such as `metric`, `item` or `key`, its number in `value`", as_long
    ),
    "an answer of Prometheus's API": Form("the saved JSON of `query_range` or `query`", as_prometheus),
    "VictoriaMetrics's export": Form("the JSON lines of `/api/v1/export`", as_victoriametrics),
    "InfluxDB's annotated CSV": Form("a metric's name is `_measurement` and `_field`", as_influx),
    "a column for each server (wide)": Form(
        "servers of incidents name columns, or `--metric` is given; the metric is the file's name, or `--metric`",
        as_wide,
    ),
    "the same with ports": Form("`web-01:9100`", as_wide_with_ports),
    "the same with labels, as Grafana exports": Form(
        '`instance="web-01"` or the like in each header', as_wide_with_labels
    ),
    "a column for each server and metric": Form(
        "servers of incidents stand in the headers: `web-01: cpu`", as_wide_of_words
    ),
    "a file for each metric": Form(
        "the files are about the same servers; they are joined by server and time", as_file_for_each_metric
    ),
    "the same with a column `value`": Form(
        "the metric is the file's name, without a date at its end", as_values_for_each_metric
    ),
    "a file for each server": Form("servers of incidents stand in the files' names", as_file_for_each_server),
    "a folder for each server": Form(
        "`host=web-01/`, or the folder is named after a server of incidents", as_folder_for_each_server
    ),
    "other names of metrics": Form(
        "`system.cpu.user` or `rate(x[5m])` become letters, digits and `_`; `--map` chooses",
        as_dotted,
        {"layout": Layout(new_names={f"sys.{name}[5m]": name for name in ("cpu_pct", "memory_pct", "latency_ms")})},
    ),
}
