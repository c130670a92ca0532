"""From ICD codes to phenotypes: vocabularies, normalisation, labels."""

if __name__ == "mappings":
    raise ImportError(
        "import phewas.mappings, not mappings: a bare 'mappings' would be shadowed by any folder of that name"
    )
