"""The program `crashcast`, also as `python -m crashcast` if the package is on the path and not installed."""

import sys
import traceback


def main() -> None:
    """Run a command; if packages are missing or broken, say how to install them."""
    try:
        from crashcast.cli import main as run
    except ImportError:
        traceback.print_exc()
        print("crashcast: a package is missing or broken; install them again: make env", file=sys.stderr)
        sys.exit(2)  # Python's own exit status, 1, means REJECT
    run()


if __name__ == "__main__":
    main()
