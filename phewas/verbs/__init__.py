"""The command line's verbs beside `run`: one file per family, light to import; `phewas.cli` registers them."""
