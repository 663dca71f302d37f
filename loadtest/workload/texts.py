"""Real texts of many lengths that need no download: docstrings of the standard library.

A third of them are one line, some are pages. In the tokens of all-MiniLM-L6-v2 the median is about 26, a tenth has more
than 130. They are the same for one version of Python, in an order that is random and fixed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sysconfig
import warnings
from pathlib import Path

COUNT = 3000
_LEFT_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def docstrings(count: int = COUNT) -> tuple[str, ...]:
    """Return `count` different docstrings. Takes a few seconds, once per process."""
    found: set[str] = set()
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        if _LEFT_OUT.isdisjoint(path.relative_to(library).parts):
            found.update(_of_file(path))
    ordered = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())
    return tuple(ordered[:count])


def _of_file(path: Path) -> list[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return [text for text in texts if text]
