"""Sources of patients, encounters, codes and recordings: one file per source, and who may be tested."""

if __name__ == "cohorts":
    raise ImportError("import phewas.cohorts, not cohorts: a bare 'cohorts' would be shadowed by any folder of that name")
