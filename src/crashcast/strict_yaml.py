"""YAML as data: plain values only, never objects."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, ten times as fast, if PyYAML was built with it
MOST_NODES = 1_000_000  # a few aliases can stand for more than any memory holds
EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Strict:
    """Two rules of YAML 1.2, which DVC follows: 1e-05 is a number, and no key occurs twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' comes twice", key.start_mark)
            seen.add(key.value)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return found


class _Fast(_Strict, FAST):  # type: ignore[misc, valid-type]  # the faster of two
    pass


class _Exact(_Strict, yaml.SafeLoader):
    pass


for loader in (_Fast, _Exact):
    loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def parse(text: str | bytes) -> Any:
    """Return the content of a YAML document.

    Raises
    ------
    yaml.YAMLError
        If the text is not such a document; the message has the line. If it is nested too deeply, or too large once its
        aliases are followed.
    """
    try:
        content = _loaded(text)
        left = MOST_NODES
        waiting = [content]
        while waiting:
            node = waiting.pop()
            left -= 1
            if left < 0:
                raise yaml.YAMLError(f"more than {MOST_NODES:,} values")
            if isinstance(node, dict | list):
                waiting += node.values() if isinstance(node, dict) else node
        return content
    except (ValueError, OverflowError, RecursionError) as error:  # of a date or number that there is none
        raise yaml.YAMLError(str(error)) from None


def _loaded(text: str | bytes) -> Any:
    try:
        return yaml.load(text, _Fast)
    except yaml.YAMLError:
        return yaml.load(text, _Exact)  # fails too, with the exact line: libyaml may name the next one
