"""What is shown: tables, figures and the page; reads result tables and computes no statistic."""

if __name__ == "reports":
    raise ImportError("import phewas.reports, not reports: a bare 'reports' would be shadowed by any folder of that name")
