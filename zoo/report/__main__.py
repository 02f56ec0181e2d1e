"""Command line of the comparison report."""

import argparse
import sys
from pathlib import Path

from zoo.report.build import compare


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.report",
        description="Compare runs: writes comparison.csv, comparison.md and comparison.html.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="sweep folders or run folders")
    parser.add_argument("--baseline", help="variant to subtract, by label or model (default: gpt2)")
    parser.add_argument("--output", type=Path, help="where to write (default: the first folder)")
    given = parser.parse_args(arguments)
    try:
        written = compare(given.folders, output=given.output, baseline=given.baseline)
    except (ValueError, OSError) as error:
        print(f"zoo.report: {error}", file=sys.stderr)
        return 2
    for path in written.values():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
