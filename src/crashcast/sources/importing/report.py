"""The lines that an import prints when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

DRY = "To be written, without --dry-run:"
LOST = "WARNING, LEFT OUT although they look like metrics:"


@dataclass
class Report:
    """Lines of an import, collected while it runs."""

    read: list[str] = field(default_factory=list)
    inferred: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def lines(self, is_dry: bool = False) -> list[str]:
        """Return all lines, each group below its heading."""
        groups = {
            "Read:": self.read,
            "Inferred:": self.inferred,
            "Assumed, please check:": self.assumed,
            DRY if is_dry else "Written:": self.written,
            LOST: self.lost,
        }
        return [line for heading, lines in groups.items() if lines for line in (heading, *_indented(lines))]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
