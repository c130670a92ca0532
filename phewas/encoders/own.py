"""An encoder of one's own in a Python file: ``--encoder FILE.py:NAME``."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from phewas.encoders.registry import EncoderSpec, as_specs
from phewas.errors import EncoderError, nearest
from phewas.progress import say
from phewas.rundir import sha256_of

DEFAULT = "spec"


def load(name: str) -> EncoderSpec:
    """Return the encoder that a Python file defines. The file is run: it is the user's own code.

    Parameters
    ----------
    name
        ``FILE.py:NAME``, where NAME is an `EncoderSpec` or a function without arguments that returns one; ``FILE.py``
        alone stands for ``FILE.py:spec``.

    Returns
    -------
    EncoderSpec
        Its `code` carries the file's sha256, which becomes part of a run's identity.

    Raises
    ------
    EncoderError
        There is no such file or name in it, the file ends in an error, or gives something else.
    """
    text, colon, attribute = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    del colon
    file = Path(text).expanduser()
    if not file.is_file():
        raise EncoderError(f"there is no file {file}", cure="--encoder FILE.py:NAME; examples/own_encoder.py is one")
    sha256 = sha256_of(file)
    module = _run(file.resolve(), sha256)
    wanted = attribute or DEFAULT
    if not hasattr(module, wanted):
        offered = [key for key, value in vars(module).items() if isinstance(value, EncoderSpec)]
        raise EncoderError(
            f"{file} defines no {wanted}.{nearest(wanted, offered)}",
            expected="an EncoderSpec of that name" + (f": it has {', '.join(offered)}" if offered else ""),
            cure="--encoder FILE.py:NAME; examples/own_encoder.py is a complete one",
        )
    specs = as_specs(getattr(module, wanted), where=f"{file}:{wanted}")
    if len(specs) > 1:
        raise EncoderError(f"{file}:{wanted} gives {len(specs)} encoders", expected="one", cure="name one of them")
    return replace(specs[0], code=f"sha256:{sha256}")


@lru_cache(maxsize=8)
def _run(file: Path, sha256: str) -> ModuleType:
    """Run a file as a module, once per content, and say so."""
    say(f"Running the code of {file} (sha256 {sha256[:12]}...), as --encoder asks.")
    name = f"phewas_own_{sha256[:16]}"
    source = importlib.util.spec_from_file_location(name, file)
    if source is None or source.loader is None:
        raise EncoderError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    try:
        source.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line_in(file, error)
        raise EncoderError(
            f"{file}{line} ends in {type(error).__name__}: {error}", cure=f"python {file} shows the same"
        ) from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _line_in(file: Path, error: BaseException) -> str:
    """Return `` line N`` for the last place in the user's file that an error passed through."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = error.lineno
    return f" line {line}" if line else ""
