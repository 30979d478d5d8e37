"""The section `collect` of params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from crashcast.errors import UserError
from crashcast.params.collect import Collect

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("url", "https://me:secret@host", "must be http(s)://host:port, with a path if need be"),
        ("url", "host:9090", "must be http(s)://host:port"),
        ("server_pattern", ".+", "needs a group in parentheses"),
        ("server_pattern", "(", "is no regular expression"),
        ("queries", {"a": {"mean": "b", "max": "b"}}, "at most 1"),
        ("queries", {"a": {"median": "b"}}, "'mean', 'min', 'max', 'sum' or 'last'"),
        ("headers", {"Authorization": "Bearer abc"}, "Authorization may hold a secret"),
        ("headers", {"X-Api-Key": "abc"}, "X-Api-Key may hold a secret"),
        ("headers", {"X-Scope-OrgID": "a\nX-Other: b"}, "is no header"),
        ("headers", {"X Scope": "a"}, "is no header"),
        ("headers", {"X-Scope-OrgID": "Größe"}, "is no header"),
        ("headers", {"X-Scope-OrgID": 42}, "valid string"),
        ("parallel", 0, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["collect"][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        Collect.read(tmp_path / "params.yaml")
    assert f"collect.{key}" in str(caught.value)
    assert message in str(caught.value)
