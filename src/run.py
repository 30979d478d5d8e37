"""Run one stage: python src/run.py STAGE ARGUMENT...

Python puts this file's folder first on its path. So a stage runs the code of its own clone or worktree, even if another
one is installed. Bad input, or a full disk, ends in a message and exit status 2.
"""

import importlib
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Import the stage of the first argument, and call its `main` with the other arguments as paths."""
    stage, *arguments = sys.argv[1:] or [""]
    if not Path(__file__).with_name("stages").joinpath(f"{stage}.py").is_file():
        sys.exit(f"run.py: there is no stage '{stage}': dvc.yaml calls this; type `dvc repro`")
    from crashcast.errors import refusal
    from crashcast.execution.input_guard import unedited
    from crashcast.run_record import recorded
    from crashcast.text import clean_output

    with clean_output(), recorded(stage):
        try:
            with unedited(stage):
                from crashcast.execution.orphan_guard import take_over
                from crashcast.params.every_section import check

                check()
                take_over(stage)
                importlib.import_module(f"stages.{stage}").main(*map(Path, arguments))
        except Exception as error:
            told = refusal(error)
            print(f"{stage}: {told}" if told else traceback.format_exc(), file=sys.stderr)
            sys.exit(2 if told else 1)


if __name__ == "__main__":
    main()
