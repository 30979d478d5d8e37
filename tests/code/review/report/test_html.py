from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from crashcast.errors import UserError
from crashcast.review.report import comment, html, schema, svg, terminal, wording
from crashcast.review.report.schema import checked
from crashcast.review.report.wording import Words

EXAMPLE = Path(__file__).parents[3] / "review_example"
HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)>[a](javascript:alert(3))|`*_{{7*7}} @all #1 \x1b[2J\u202e"
)
VOID = {"meta", "br"}


def record(**changes: Any) -> Any:
    """Return an accepted improvement with every kind of change, after some changes of its own."""
    return checked(json.loads((EXAMPLE / "record.json").read_text()) | changes, "the example")


def pictures(**changes: Any) -> dict[str, Any]:
    return json.loads((EXAMPLE / "pictures.json").read_text()) | changes


def difference(**changes: Any) -> Any:
    """Return a gain of 0.1 in a figure of which more is better, between 0.05 and 0.15."""
    found = {"name": "f", "title": "Figure", "unit": "", "better": "higher", "role": "guardrail", "margin": 0.02}
    values = {"champion": 0.2, "challenger": 0.3, "difference": 0.1, "low": 0.05, "high": 0.15, "confidence": 0.9}
    return found | values | changes


NO_CHANGES = {
    "parameters": [],
    "code": [],
    "data": [],
    "features": {"added": [], "removed": []},
    "candidates": [],
    "metrics": [],
    "history": {"counts": {}, "listed": []},
}
NOT_MEASURED = difference(champion=None, challenger=None, difference=None, low=None, high=None, confidence=None)


def first() -> tuple[Any, dict[str, Any]]:
    """Return the review of a first model: nothing to compare with but baselines."""
    of_both = pictures()
    alone = {name: {"challenger": of_both[name]["challenger"]} for name in ("precision_recall", "calibration")}
    nothing = {"base": None, "anchor": None, "look": None, "detectable": None, "slices": [], "validation": {}}
    return (
        record(
            **nothing,
            form="first",
            definitions={"crashes_7d": [difference()]},
            changes=NO_CHANGES,
            policy_changes=[],
            reverse={"not_judged": "no champion"},
        ),
        pictures(**alone, crashes=[], thresholds={"challenger": 0.2}),
    )


def bare() -> tuple[Any, dict[str, Any]]:
    """Return a review that could tell nothing."""
    reasons = [{"check": "sample size", "outcome": "open", "text": "9 more groups of crashes are needed"}]
    rows = record()["rows"] | {"excluded": {}}
    nothing = {"reasons": reasons, "rows": rows, "slices": [], "changes": NO_CHANGES, "policy_changes": []}
    agreed = [crash for crash in pictures()["crashes"] if crash["caught_by"] in ("both", "neither")]
    return (
        record(
            verdict="INCONCLUSIVE", form=None, differences=[NOT_MEASURED], reverse={"not_judged": "too few"}, **nothing
        ),
        pictures(crashes=agreed),
    )


def rejected() -> tuple[Any, dict[str, Any]]:
    """Return a review with ten reasons against, under two definitions."""
    reasons = [{"check": "guardrail", "outcome": "fail", "text": f"figure {k} got worse"} for k in range(10)]
    worse = difference(role="primary", difference=-0.1, low=-0.15, high=-0.05, challenger=0.1)
    vetoed = [part | {"vetoed": True, "difference": -0.2, "low": -0.3, "high": -0.1} for part in record()["slices"]]
    definitions = {"the challenger's labels": [worse], "the challenger's history": [worse]}
    reasons = [*record()["reasons"], *reasons]
    return record(
        verdict="REJECT", form=None, reasons=reasons, differences=[worse], definitions=definitions, slices=vetoed
    ), pictures()


CASES = {"accepted": lambda: (record(), pictures()), "first": first, "bare": bare, "rejected": rejected}


class Document(HTMLParser):
    """A page's elements, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parents: list[tuple[str, ...]] = []
        self.open: list[str] = []
        self.text = ""
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.parents.append(tuple(self.open))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.parents.append(tuple(self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        self.texts[self.open[-1] if self.open else ""] = data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(params=list(CASES))
def document(request) -> Document:
    return Document(html.render(*CASES[request.param]()))


# the record


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = schema.write(tmp_path / "record.json", record())
    assert schema.read(tmp_path / "record.json") == written == record()
    assert (tmp_path / "record.json").read_bytes() == (EXAMPLE / "record.json").read_bytes()


@pytest.mark.parametrize("key", sorted(set(json.loads((EXAMPLE / "record.json").read_text())) - {"schema"}))
def test_a_record_without_a_key_is_refused(tmp_path, key):
    lacking = {name: value for name, value in record().items() if name != key}
    (tmp_path / "record.json").write_text(json.dumps(lacking))
    with pytest.raises(UserError, match=rf"record\.json, {key}: Field required.*crashcast review"):
        schema.read(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: `crashcast review` writes it"),
        ("<<<<<<< HEAD", "is unreadable"),
        ('{"schema": NaN}', "NaN is no number"),
        ("[]", "of schema 1, but of None"),
        ('{"schema": 2}', "no decision record of schema 1, but of 2: read it with the crashcast that wrote it"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=message):
        schema.read(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"verdict": "MAYBE"}, "verdict"),
        ({"differences": [difference(low="0.1")]}, r"differences\.0\.low"),
        ({"slices": [{"name": "web"}]}, r"slices\.0\.rows"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, changes, where):
    with pytest.raises(UserError, match=where):
        schema.write(tmp_path / "record.json", {**record(), **changes})
    assert not (tmp_path / "record.json").exists()


def test_a_number_that_is_none_is_never_written(tmp_path):
    with pytest.raises(ValueError, match=r"\$\.differences\[0\]\.low is nan"):
        schema.write(tmp_path / "record.json", {**record(), "differences": [difference(low=float("nan"))]})


# words


@pytest.mark.parametrize(
    ("changes", "form", "expected"),
    [
        ({}, None, "better"),
        ({"better": "lower"}, None, "worse than its margin"),
        ({"better": "lower", "margin": 0.2}, None, "worse, within its margin"),
        ({"low": -0.01}, None, "no clear difference"),
        ({"low": None}, None, "no interval"),
        ({"low": None, "difference": None}, None, "not measured"),
        ({"role": "shown", "margin": None, "low": -0.01}, None, "no clear difference"),
        ({"role": "primary"}, "improvement", "better"),
        ({"role": "primary", "margin": 0.06}, "improvement", "better, perhaps by less than needed"),
        ({"role": "primary", "low": -0.01}, "improvement", "no clear difference"),
        ({"role": "primary", "better": "lower"}, "improvement", "worse"),
        ({"role": "primary", "low": -0.01}, "renewal", "no worse than its margin"),
        ({"role": "primary", "low": -0.03}, "renewal", "perhaps worse than its margin"),
        ({"role": "shown", "low": -0.03}, "renewal", "perhaps worse than its margin"),
    ],
)
def test_what_an_interval_shows_is_said_in_the_terms_of_its_margin(changes, form, expected):
    assert wording.finding(difference(**changes), form) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Words("Figure", "0.200", "0.300", "+0.100", "+0.050 to +0.150", "better", "loss tolerated: 0.02")),
        (
            {"unit": "share", "low": -0.004, "margin": None},
            Words("Figure (%)", "20.0", "30.0", "+10.0", "-0.4 to +15.0", "no clear difference", ""),
        ),
        (
            {"unit": "ms", "champion": 1234.5, "difference": 0.00001, "low": -40, "high": 40, "margin": None},
            Words("Figure (ms)", "1,234", "0", "0", "-40 to +40", "no clear difference", ""),
        ),
        (
            {"difference": None, "low": None, "champion": None, "challenger": 0.012345, "margin": None},
            Words("Figure", "none", "0.0123", "none", "", "not measured", ""),
        ),
    ],
)
def test_figures_have_the_decimals_that_their_interval_is_worth(changes, expected):
    assert wording.in_words(difference(**changes), None) == expected


def test_intervals_name_their_confidence_where_it_differs():
    of = [difference(), difference(confidence=0.9848)]
    assert wording.interval_title(of[:1]) == "90% interval"
    assert wording.interval_title(of) == "interval"
    assert [wording.in_words(found, None, of).interval for found in of] == [
        "+0.050 to +0.150 (90%)",
        "+0.050 to +0.150 (98.48%)",
    ]


def test_sentences_about_the_rows_and_the_looks():
    assert wording.on_rows(record()) == (
        "Judged on 249,310 rows of 300 servers, 2025-07-26 to 2025-08-31: 254 crashes in 98 incident groups. "
        "28,866 rows were left out."
    )
    assert (
        wording.could_show(record())
        == "A true gain in PR-AUC of 0.031 would have been shown with a probability of 80%."
    )
    assert wording.looks(record()) == "Look 2 at these test rows: held to an error of 0.0076. Before it: INCONCLUSIVE."
    shared = record()["look"] | {"number": 2.75, "error": 0.004}
    assert wording.looks(record(look=shared)) == (
        "Look 2.75 at these test rows, as earlier looks at other test rows of this period count by their share: "
        "held to an error of 0.004. Before it: INCONCLUSIVE."
    )
    assert wording.could_show(record(detectable=None)) == wording.looks(record(look=None)) == ""


def test_mitigated_alarms_are_told_beside_the_others_wherever_the_rows_are():
    mitigated = {"rows": 1200, "alarms": {"champion": 3, "challenger": 4}}
    acted = record(rows=record()["rows"] | {"mitigated": mitigated})
    told = (
        "Somebody acted, and no crash came, after 1,200 other rows, so their labels are unknown: 3 alarms of the "
        "champion and 4 of the challenger are mitigated, neither true nor false; figures of months in which people act "
        "on alarms cannot be compared with those of other months."
    )
    assert wording.on_rows(acted).endswith(f"28,866 rows were left out. {told}")
    assert told in html.render(acted, pictures())
    assert told in comment.as_markdown(acted)


def test_recipes_that_were_judged_are_told_of_with_their_windows_everywhere():
    window = {"rows": 5000, "crashes": 20, "trained_to": "2026-01-20T12:00:00"}
    spans = [("2026-02-01T00:00:00", "2026-02-14T00:00:00"), ("2026-02-14T00:00:00", "2026-02-27T00:00:00")]
    areas = [(0.12, 0.2), (None, None)]
    windows = [
        {**window, "from": start, "to": end, "champion": champion, "challenger": challenger}
        for (start, end), (champion, challenger) in zip(spans, areas, strict=True)
    ]
    judged = record(windows=windows)
    told = (
        "Recipes were judged, not models: `train` of both commits ran again before each of 2 test windows, "
        "2026-02-01 to 2026-02-27, and their rows were pooled."
    )
    assert wording.recipes(judged).startswith(told)
    assert "They do not cover that the authors" in wording.recipes(judged)
    assert wording.recipes(record()) == ""
    assert wording.windows_rows(judged) == [
        ["2026-02-01 to 2026-02-14", "2026-01-20", "5,000", "20", "0.120", "0.200"],
        ["2026-02-14 to 2026-02-27", "2026-01-20", "5,000", "20", "none", "none"],
    ]
    page, text, out = html.render(judged, pictures()), comment.as_markdown(judged), StringIO()
    terminal.show(judged, Console(file=out, width=10_000))
    assert told in page
    assert told in out.getvalue()
    assert told.replace("`", "\\`") in text
    for written in (page, text):
        assert "2026-02-14 to 2026-02-27" in written


def test_sentences_begin_and_end_as_such_and_names_stay():
    assert wording.sentence("the champion is stale") == "The champion is stale."
    assert wording.sentence("server_days: 3 of 4!") == "server_days: 3 of 4!"
    assert wording.sentence("acceptance.min_gain changes") == "acceptance.min_gain changes."


def test_a_slice_that_vetoes_or_is_too_small_says_so():
    by_name = {part["name"]: part for part in record()["slices"]}
    assert wording.slice_in_words(by_name["group_worker"]).finding == "not judged"
    worse = {"vetoed": True, "difference": -0.2, "low": -0.3, "high": -0.1}
    assert wording.slice_in_words(by_name["group_web"] | worse).finding == "worse than its margin: veto"


@given(st.text(max_size=300))
def test_plain_text_has_nothing_that_acts(text):
    found = wording.plain(text)
    assert len(found) <= wording.LONGEST
    assert not [mark for mark in found if unicodedata.category(mark)[0] == "C" or mark in "\u2028\u2029\n"]
    if text.isalnum() and len(text) <= wording.LONGEST:
        assert found == text


# the comment


def test_the_comment_says_verdict_figures_and_reasons_in_this_order():
    text = comment.as_markdown(rejected()[0])
    assert text.startswith(f"{comment.MARKER}\n\n## ❌ REJECT\n\n**")
    assert "** Keep the champion.\n" in text
    row = "| Figure | 0.200 | 0.100 | -0.100 | -0.150 to -0.050 | worse; gain needed: 0.02 |"
    order = [
        text.index(part) for part in (row, "- ✗ failed, guardrail: Figure 0 got worse.", "- ✓ passed, primary: PR-AUC")
    ]
    assert order == sorted(order)
    assert text.index("<details><summary>Under the challenger's labels</summary>") > order[-1]


def test_a_comment_on_nothing_has_no_empty_tables():
    text = comment.as_markdown(bare()[0])
    assert "<details>" not in text
    assert "| Figure | none | none | none |  | not measured; loss tolerated: 0.02 |" in text


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@given(st.text(max_size=60) | st.text(alphabet="\\`*_[]()<>|~&#!@:.-+=1a \n", max_size=30))
def test_escaped_text_means_nothing_but_itself_in_markdown(text):
    escaped = comment.escape(text)
    expected = wording.plain(text).strip()
    row = MARKDOWN.parse(f"| a | b |\n| --- | --- |\n| {escaped} | end |")
    cells = [token for token in row if token.type == "inline"][2:]
    item = [token for token in MARKDOWN.parse(f"- open, x: {escaped}") if token.type == "inline"]
    for inline, before in [(cells[0], ""), (item[0], "open, x: ")]:
        assert {child.type for child in inline.children} <= {"text"}
        found = "".join(child.content for child in inline.children)
        assert " ".join(found.replace("\u200b", "").split()) == " ".join(f"{before}{expected}".split())
    assert cells[1].content == "end"


@pytest.mark.parametrize("reference", ["@all", "#12", "!3", "~bug", ":+1:", "https://example.com", "www.example.com"])
def test_a_comment_calls_nobody_and_links_to_nothing(reference):
    assert reference not in comment.escape(f"a {reference} b").replace("\\", "")
    assert comment.escape("PR-AUC 0.5 (90% interval): better, 3 to 4") == "PR-AUC 0.5 (90% interval): better, 3 to 4"


def test_no_name_brings_markup_into_a_comment():
    text = comment.as_markdown(poisoned(record()))
    blocks = {token.content for token in MARKDOWN.parse(text) if token.type == "html_block"}
    inline = [child for token in MARKDOWN.parse(text) for child in token.children or []]
    assert all(
        re.fullmatch(r"(<!-- .* -->|<details><summary>[^<>]*</summary>|</details>)\n?", block) for block in blocks
    )
    assert {child.type for child in inline} <= {"text", "strong_open", "strong_close", "softbreak"}
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "@all" not in text


def test_a_comment_is_never_longer_than_a_forge_takes():
    name = f"p{HOSTILE * 9}"
    many = [{"file": name, "name": name, "base": name, "challenger": k} for k in range(500)]
    changes = {"parameters": many, "candidates": many, "metrics": many, "code": [name] * 500}
    slices = [record()["slices"][0] | {"name": name}] * 500
    text = comment.as_markdown(record(changes=record()["changes"] | changes, slices=slices))
    assert len(text) < comment.LONGEST_COMMENT + 1000
    assert "Too long for a comment, on the page: What changed." in text
    assert "450 more on the page." in text


# the terminal


def test_the_terminal_gets_the_same_and_no_codes_of_others():
    out = StringIO()
    terminal.show(poisoned(record()) | {"headline": "[red]good[/red] \x1b[31m"}, Console(file=out, width=200))
    text = out.getvalue()
    assert "✓ passed, primary" in text
    assert text.rstrip().endswith("ACCEPT: [red]good[/red] \ufffd[31m The challenger may replace the champion.")
    assert "\x1b" not in text
    assert "+0.014 to +0.079" in text


# the page

ENUMERATED = {"verdict", "form", "outcome", "better", "role", "check", "caught_by", "started_at", "from", "to", "at"}


def poisoned(value: Any, key: str = "") -> Any:
    """Put something hostile into every string that comes from users, and into names that they choose."""
    if isinstance(value, dict):
        chosen = key in ("data", "excluded", "definitions", "validation", "policy", "incidents")
        return {f"{name}{HOSTILE}" if chosen else name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in ENUMERATED else value


def test_the_same_input_gives_the_same_bytes(tmp_path):
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: backwards(value[name]) for name in reversed(value)}
        return [backwards(item) for item in value] if isinstance(value, list) else value

    html.write(tmp_path / "a.html", record(), pictures())
    html.write(tmp_path / "b.html", backwards(record()), backwards(pictures()))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_no_name_brings_markup_into_the_page():
    found = Document(html.render(poisoned(record()), poisoned(pictures())))
    expected = Document(html.render(record(), pictures()))
    assert Counter(tag for tag, _ in found.elements) == Counter(tag for tag, _ in expected.elements)
    assert [sorted(attributes) for _, attributes in found.elements] == [sorted(a) for _, a in expected.elements]
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    shown = wording.plain(HOSTILE)
    assert found.text.count(shown) > 100
    assert "\x1b" not in found.text
    assert "\u202e" not in found.text


def test_nothing_is_fetched_and_nothing_runs(document):
    assert {
        href for attributes in document.all("a") if (href := attributes["href"]) and not href.startswith("#")
    } == set()
    assert not document.all(
        "script", "link", "img", "iframe", "object", "form", "base", "image", "use", "foreignobject"
    )
    assert not [attributes for _, attributes in document.elements if {"src", "style", "srcset"} & attributes.keys()]
    style = document.texts["style"]
    assert not re.search(r"url\(|@import|@font-face|https?:", style)


def test_the_page_forbids_itself_all_but_its_own_style():
    text = html.render(record(), pictures())
    policy = next(a["content"] for a in Document(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*)</style>", text, flags=re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_what_helps_a_screen_reader_is_there(document):
    assert document.open == []
    tags = [tag for tag, _ in document.elements]
    assert [tags.count(tag) for tag in ("h1", "main", "nav", "header")] == [1, 1, 1, 1]
    assert document.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    names = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {str(attributes["href"])[1:] for attributes in document.all("a")} <= set(names)
    assert all("scope" in attributes for attributes in document.all("th"))
    after = Counter(later[0] for (tag, _), later in pairwise(document.elements) if tag == "table")
    assert set(after) == {"caption"}
    outer = [
        (attributes, document.elements[at + 1][0])
        for at, (tag, attributes) in enumerate(document.elements)
        if tag == "svg" and "svg" not in document.parents[at]
    ]
    assert all(a.get("aria-hidden") == "true" or (a.get("role") == "img" and child == "title") for a, child in outer)


def test_cases_with_nothing_to_show_say_so():
    text = Document(html.render(*bare())).text
    for sentence in (
        "Keep the champion for now: this evidence cannot tell.",
        "Not judged: too few.",
        "Both warned of the same crashes.",
        "No slice was looked at.",
        "Nothing differs between the two commits.",
        "No row was left out.",
    ):
        assert sentence in text
    text = Document(html.render(*first())).text
    assert "There is no champion yet: this model may become the first." in text
    assert "There is no champion whose warnings could be compared." in text
    assert "The other way round" not in text
    assert "Against the baseline that is hardest to beat." in text
    assert "Against crashes_7d" in text


def test_what_speaks_against_comes_first():
    text = Document(html.render(*rejected())).text
    order = [
        text.index(part) for part in ("Figure 0 got worse.", "Figure 9 got worse.", "Group worker", "checks passed")
    ]
    assert order == sorted(order)
    assert text.count("worse than its margin: veto") == len(record()["slices"])


def test_only_figures_that_differ_are_listed():
    same = {"file": "metrics/train.json", "name": "same", "base": 1, "challenger": 1}
    changes = record()["changes"]
    text = Document(html.render(record(changes=changes | {"metrics": [*changes["metrics"], same]}), pictures())).text
    assert "Metrics: 8 of 9 figures differ" in text


def test_crashes_beyond_what_a_page_can_hold_are_counted():
    crash = {"server_id": "web-1", "started_at": "2025-08-01T00:00:00", "caught_by": "challenger"}
    many = [crash | {"lead_h": {"challenger": 2.5, "champion": None}}] * (html.MOST_CRASHES + 50)
    text = html.render(record(), pictures(crashes=many))
    assert "Only the challenger warned: 250" in text
    assert text.count("<td>2025-08-01 00:00</td>") == html.MOST_CRASHES


def test_every_pair_of_colours_can_be_told_apart():
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        for part in html.CHARTS.split("@media (prefers-color-scheme")
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        texts = [(name, "page") for name in ("text", "muted", "link", "good", "bad", "open", "challenger", "champion")]
        texts += [(name, "card") for name in ("text", "muted")]
        texts += [(name, f"{kind}-page") for kind in ("good", "bad", "open") for name in (kind, "text")]
        for front, back in texts:
            assert contrast(scheme[front], scheme[back]) >= 4.5, (front, back)


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted(map(luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# charts


def positions(drawing: str, kind: str, *names: str) -> list[list[str | None]]:
    return [
        [a[name] for name in names] for _, a in Document(drawing).elements if kind in (a.get("class") or "").split()
    ]


def test_to_the_right_the_challenger_is_better():
    gain = svg.interval(difference(), None, reach=0.2)
    assert positions(gain, "estimate", "cx") == [["75%"]]
    assert positions(gain, "interval", "x1", "x2")[0] == ["62.5%", "87.5%"]
    assert positions(gain, "margin", "x1") == [["45%"]]
    assert positions(svg.interval(difference(better="lower"), None, reach=0.2), "estimate", "cx") == [["25%"]]
    needed = svg.interval(difference(role="primary"), "improvement", reach=0.2)
    assert positions(needed, "margin", "x1") == [["55%"]]
    assert "<title>Figure: better</title>" in gain
    assert svg.interval(NOT_MEASURED, None) == ""


def test_curves_are_drawn_from_the_lower_left_corner():
    drawing = svg.precision_recall({"challenger": {"recall": [0, 1], "precision": [1, 0.25]}}, base_rate=0.1)
    assert positions(drawing, "challenger", "d") == [["M0 0L1000 750"]]
    assert positions(drawing, "chance", "d") == [["M0 900L1000 900"]]
    assert positions(drawing, "champion", "d") == []


def test_calibration_has_logarithmic_axes_and_room_for_none():
    drawing = svg.calibration({"challenger": {"mean_score": [0.01, 0.1], "crash_rate": [0.0, 0.1], "rows": [1, 1]}})
    assert positions(drawing, "challenger", "d")[0] == ["M0 1000L500 500"]


def test_a_timeline_breaks_where_a_score_is_unknown():
    scores = {"hours": [-4.0, -3.0, -2.0, -1.0, 0.0], "challenger": [0.1, 0.1, None, 0.2, None]}
    drawing = svg.timeline(scores, {"challenger": 0.2 / 1.05}, (3.0, 1.0))
    threshold, *lines = positions(drawing, "challenger", "class", "d")
    assert threshold[0] == "challenger threshold"
    assert [d for _, d in lines] == ["M0 523.8L250 523.8", "M750 47.6h.01"]
    assert positions(drawing, "window", "x", "width") == [["250", "500"]]
    assert ">crash</text>" in drawing
    assert "the challenger reaches 0.2, 0.19 raises an alarm" in drawing


@pytest.mark.parametrize(("at_h", "said"), [(-3.0, True), (-9.0, False), (-0.5, False)])
def test_an_alarm_that_opened_too_early_is_told_of(at_h, said):
    crash = {"caught_by": "challenger", "timeline": {"hours": [at_h], "champion": [0.5], "challenger": [0.0]}}
    pictures = {"thresholds": {"champion": 0.4, "challenger": 0.2}, "warning_h": [7.0, 1.0]}
    assert html._alarmed_early(crash, pictures) == ("champion" if said else None)


def test_timelines_in_figures_have_the_highest_score_of_each_hour():
    scores = {"hours": [-1.5, -1.2, -0.5, 0.5], "champion": [0.1, 0.3, None, 0.2], "challenger": [0.2, 0.1, 0.4, None]}
    assert html._hourly(scores) == [
        (-2, {"champion": 0.3, "challenger": 0.2}),
        (-1, {"champion": None, "challenger": 0.4}),
        (0, {"champion": 0.2, "challenger": None}),
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.0]], (0.0, 1.0)),
        ([[None], []], (0.0, 1.05)),
        ([[10.0, None, 20.0]], (0.0, 20.5)),
        ([[15.0, 20.0]], (14.75, 20.25)),
        ([[50.0]], (47.5, 52.5)),
        ([[-4.0, -4.0]], (-4.2, -3.8)),
        ([[-2.0], [2.0]], (-2.2, 2.2)),
    ],
)
def test_an_axis_has_room_for_its_values(values, expected):
    assert svg.extent_of(values) == pytest.approx(expected)


def test_a_gap_in_the_values_is_one_in_the_line():
    drawing = svg.around("", "", "", [-2, -1, 0, 1], {"challenger": [1, None, 1, 1]}, "crash", (0, 2))
    (dot, line) = re.findall(r'class="(challenger[ a-z]*)" d="([^"]+)"', drawing)
    assert dot == ("challenger dot", "M0 500h.01")
    assert line == ("challenger", "M666.7 500L1000 500")


def test_a_band_goes_along_its_upper_limit_and_back():
    drawing = svg.by_period("", "", "", ["a", "b"], {}, {"challenger": ([0, None], [1.0, None])})
    assert re.findall(r'class="challenger band" d="([^"]+)"', drawing) == ["M250 47.6L250 1000"]
