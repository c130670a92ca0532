"""Which diseases can this biosignal encoder see? Phenome-wide AUCs with honest intervals."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# In a source checkout the rooms `cohorts`, `mappings` and `reports` lie beside this folder. Extending the package
# path makes `python -m phewas` and pytest work there without an install; an installed package has no such neighbours.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "cohorts" / "__init__.py").is_file():
    __path__.append(str(_root))

__all__ = ["__version__"]
