"""How soon the page shows and answers: `python tests/benchmarks/bench_page.py report/index.html`. Needs Chromium.

At phone and desktop width, the median of several openings, each in a browser just started: first contentful paint, and
when the interactive figure is seen to stand, in milliseconds since navigation began. One figure a line.
`bench_report.py --keep FOLDER` leaves a page of 1,866 phenotypes in FOLDER/run/report.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path

PAINT = "(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime || 0"


def browser():
    file = Path(__file__).parents[1] / "reports" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chromium"] = module
    spec.loader.exec_module(module)
    return module.Browser(Path(tempfile.mkdtemp()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    page = given.page.resolve()
    print(f"page_MB {page.stat().st_size / 1e6:.2f}")
    for width, height in ((390, 844), (1440, 900)):
        paints, drawn = [], []
        for _ in range(given.times):
            tab = browser()
            try:
                tab.open(page, width=width, height=height)
                tab.until(f"{PAINT} > 0")
                paints.append(tab.js(PAINT))
                drawn.append(tab.js("performance.now()"))
            finally:
                tab.close()
        print(f"first_paint_{width}px_ms {statistics.median(paints):.0f}")
        print(f"first_paint_{width}px_slowest_ms {max(paints):.0f}")
        print(f"figure_stands_{width}px_ms {statistics.median(drawn):.0f}")


if __name__ == "__main__":
    main()
