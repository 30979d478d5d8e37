"""What `crashcast upgrade` makes of two versions of params.yaml; the merge is in tests/system/test_upgrade.py."""

from __future__ import annotations

from crashcast.versioning.upgrade import merged_params

OURS = b"""\
# our fleet
train:
  seed: 7                 # drawn by us
  candidates: {dummy: {}}
  gone: 1

label:
  horizon: 8h
"""
THEIRS = b"""\
# every setting
train:
  seed: 1                 # of the sample
  certainty: 0.9          # new in this version
  candidates: {dummy: {}, trees: {}}

label:
  horizon: 6h
  lead: null

serve:                    # see docs
  listen: "127.0.0.1"
"""


def test_values_and_comments_stay_and_what_is_new_is_added() -> None:
    text, added, unknown = merged_params(OURS, THEIRS)
    assert text == (
        "# our fleet\n"
        "train:\n"
        "  seed: 7                 # drawn by us\n"
        "  certainty: 0.9          # new in this version\n"
        "  candidates: {dummy: {}}\n"
        "  gone: 1\n"
        "\n"
        "label:\n"
        "  lead: null\n"
        "  horizon: 8h\n"
        "\n"
        "serve:                    # see docs\n"
        '  listen: "127.0.0.1"\n'
    )
    assert added == ["train.certainty: 0.9", "label.lead: null", 'serve: {"listen": "127.0.0.1"}']
    assert unknown == ["train.gone"]


def test_nothing_new_changes_no_byte() -> None:
    assert merged_params(OURS, OURS) == (OURS.decode(), [], [])
