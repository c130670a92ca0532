"""What is shown: tables, figures and the page; reads result tables and computes no statistic."""

if __name__ == "reports":
    raise ImportError(
        "import phewas.reports, not reports: a bare 'reports' would be shadowed by any folder of that name"
    )

from phewas.reports.build import build
from phewas.reports.manhattan import manhattan
from phewas.reports.meta import ReportMeta
from phewas.reports.tables import protect, shareable

__all__ = ["ReportMeta", "build", "manhattan", "protect", "shareable"]
