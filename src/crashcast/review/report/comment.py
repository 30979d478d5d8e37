"""The review as a comment on a pull request, in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from crashcast.review.report import wording
from crashcast.review.report.schema import Difference, NamedChange, Reason, Record
from crashcast.review.report.wording import MARKS, OUTCOMES, in_words, plain, value_text

MARKER = "<!-- crashcast review -->"  # by which a bot finds its own comment
LONGEST_COMMENT = 60_000  # characters; GitHub refuses 65,536
LONGEST_SENTENCE = 1000
MOST_LINES = 50  # of one table in a comment
EMOJI = {"ACCEPT": "✅", "REJECT": "❌", "INCONCLUSIVE": "⚠️"}
BOTH = ("base", "challenger")


def as_markdown(record: Record) -> str:
    """Write a comment for the pull request.

    Verdict, intervals and reasons come first. What would make the comment longer than a forge takes is left out and
    named; strings from users mean nothing but themselves (`escape`).
    """
    verdict = record["verdict"]
    sentence = escape(record["headline"], LONGEST_SENTENCE)
    text = f"{MARKER}\n\n## {EMOJI[verdict]} {verdict}\n\n**{sentence}** {wording.meaning(record)}"
    left_out = []
    for title, part in [*_in_sight(record), *_folded(record)]:
        if len(text) + len(part) < LONGEST_COMMENT:
            text += f"\n\n{part}"
        else:
            left_out.append(title)
    return text + (f"\n\nToo long for a comment, on the page: {', '.join(left_out)}." if left_out else "") + "\n"


def escape(text: str, longest: int = wording.LONGEST) -> str:
    """Write text that comes from users into a line of Markdown, where it means nothing but itself.

    Nor does it call people or link to anything: forges look for `@name`, `#1`, `:sign:` and the like in the finished
    text, and a space without width keeps them from finding it.
    """
    return re.sub(r"[\\`*_\[\]<>|~&]", r"\\\g<0>", _without_references(plain(text, longest).strip()))


def _without_references(text: str) -> str:
    return re.sub(r"[@#!$%~^&](?=[\w\"'])|:(?=//|[\w+-]+:)|(?i:\bwww(?=\.))", "\\g<0>\u200b", text)


def _in_sight(record: Record) -> Iterator[tuple[str, str]]:
    if record["differences"]:
        yield "differences", _differences(record["differences"], record)
    weighty, _ = wording.weighed_reasons(record)
    yield "reasons", _reasons(weighty)
    about = [
        wording.on_rows(record),
        wording.recipes(record),
        wording.could_show(record),
        wording.looks(record),
        wording.how_it_ran(record),
    ]
    yield "rows", " ".join(escape(sentence, LONGEST_SENTENCE) for sentence in about if sentence)
    sides = {"challenger": record["challenger"], "champion": record["base"], "anchor": record["anchor"]}
    yield (
        "models",
        "\n".join(
            f"- {name} {escape(side['revision'][:12])}, {escape(side['algorithm'])}"
            for name, side in sides.items()
            if side
        ),
    )


def _folded(record: Record) -> Iterator[tuple[str, str]]:
    _, passed = wording.weighed_reasons(record)
    tables = [(wording.in_short(passed), _reasons(passed))] if passed else []
    tables += [
        (wording.definition(record, name), _differences(differences, record))
        for name, differences in sorted(record["definitions"].items())
    ]
    if record.get("windows"):
        windows = _table(wording.windows_head(record), wording.windows_rows(record))
        tables.append(("Windows: PR-AUC of the models that were trained before each", windows))
    if record["reverse"].get("differences"):
        shown = wording.for_information(record["reverse"]["differences"])
        tables.append(("The other way round: on the champion's test rows", _differences(shown, record)))
    if record["slices"]:
        tables.append((f"Slices ({len(record['slices'])})", _slices(record)))
    changes = "\n\n".join(_changes(record))
    if changes:
        tables.append(("What changed", changes))
    for title, body in tables:
        # Markdown is not read between HTML tags on one line
        name = html.escape(_without_references(plain(title)), quote=False)
        yield name, f"<details><summary>{name}</summary>\n\n{body}\n\n</details>"


def _reasons(reasons: Iterable[Reason]) -> str:
    return "\n".join(
        f"- {MARKS[reason['outcome']]} {OUTCOMES[reason['outcome']]}, {escape(reason['check'])}: "
        f"{escape(wording.sentence(reason['text']), LONGEST_SENTENCE)}"
        for reason in reasons
    )


def _differences(differences: Sequence[Difference], record: Record) -> str:
    header = (
        *("figure", wording.rival(record), "challenger", "difference", wording.interval_title(differences)),
        "better?",
    )
    rows = []
    for found in differences:
        words = in_words(found, record["form"], differences)
        rows.append([*words[:5], "; ".join(filter(None, words[5:]))])
    return _table(header, rows)


def _slices(record: Record) -> str:
    header = ("slice", "crashes", wording.rival(record), "challenger", "difference", "interval", "better?")
    rows = []
    for part in record["slices"]:
        title, *cells = wording.slice_in_words(part)
        rows.append([title, f"{part['crashes']:,}", *cells[:5]])
    return _table(header, rows)


def _changes(record: Record) -> Iterator[str]:
    changes = record["changes"]
    if record["policy_changes"]:
        yield _table(("policy (the base's was applied)", *BOTH), _values(record["policy_changes"]))
    if changes["parameters"]:
        yield _table(("parameter", *BOTH), _values(changes["parameters"]))
    if changes["data"]:
        data = [
            [found["path"], value_text(found["base"]), value_text(found["challenger"])] for found in changes["data"]
        ]
        yield _table(("data", *BOTH), data)
    if changes["history"]["counts"]:
        corrected = [[name, value_text(value)] for name, value in wording.flat(changes["history"]["counts"])]
        yield _table(("corrected records of the past", "number"), corrected)
    features = changes["features"]
    named = [["added", name] for name in features["added"]] + [["removed", name] for name in features["removed"]]
    if named:
        yield _table(("feature", "name"), named)
    if changes["candidates"]:
        yield _table(("candidate, PR-AUC on validation", *BOTH), _values(changes["candidates"]))
    if changes["code"]:
        yield _table(("code",), [[path] for path in changes["code"]])
    metrics = wording.differing(changes["metrics"])
    if metrics:
        rows = [[figure["file"], *cells] for figure, cells in zip(metrics, _values(metrics), strict=True)]
        yield _table(("metrics of each commit, on its own data", "figure", *BOTH), rows)


def _values(changes: Iterable[NamedChange]) -> list[list[str]]:
    return [[change["name"], value_text(change["base"]), value_text(change["challenger"])] for change in changes]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([escape(cell) for cell in row] for row in rows[:MOST_LINES])]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return table + (f"\n\n{len(rows) - MOST_LINES:,} more on the page." if len(rows) > MOST_LINES else "")
