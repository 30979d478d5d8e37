"""The steps of `crashcast retrain`, for the command line, which imports no more than it shows."""

from typing import Literal

# bring in data; compute labels and features; push the data; ask `crashcast due`; train; open the pull request
Step = Literal["collect", "incidents", "features", "push", "due", "train", "request"]
