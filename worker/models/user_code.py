"""Find what MODEL_PATH names, `module:name` or `path/to/file.py:name`, and make a model of it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.user_traceback import describe


def find(path: str) -> tuple[Any, str]:
    """Return what MODEL_PATH names, and the file that defines it."""
    module_name, _, name = path.rpartition(":")
    file = Path(module_name).absolute() if module_name.endswith(".py") else None
    if file and not file.is_file():
        raise ModelLoadError(f"MODEL_PATH={path}: there is no file {file}")
    if not file and "/" in module_name:
        raise ModelLoadError(f"MODEL_PATH={path}: a file is named with its ending: {module_name}.py:{name}")
    directory = str(file.parent if file else Path.cwd())
    if directory not in sys.path and (file or "" not in sys.path):
        sys.path.insert(0, directory)
    try:
        module = _import_file(file) if file else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ModelLoadError(f"MODEL_PATH={path}: no module {error.name!r}, not in {directory} either") from None
        raise ModelLoadError(f"MODEL_PATH={path}: {module_name} requires {error.name!r}, not installed") from error
    except Exception as error:  # the user's code may raise anything
        raise ModelLoadError(f"MODEL_PATH={path}: importing {module_name} failed, {describe(error)}") from error
    found = getattr(module, name, None)
    if found is None or not (inspect.isclass(found) or inspect.isroutine(found) or _may_be_model(found)):
        raise ModelLoadError(f"MODEL_PATH={path}: {_no_model(module, module_name, name)}")
    if inspect.isroutine(found) and _required(found):
        raise ModelLoadError(
            f"MODEL_PATH={path}: {name} is a function of {', '.join(_required(found))}; a function that makes a model "
            f"has no arguments, and a model that calls this one is class Model: forward = staticmethod({name})"
        )
    defined = found if inspect.isclass(found) or inspect.isfunction(found) else module
    return found, inspect.getfile(defined)


def make(path: str, found: Any) -> Any:
    """Make the model of a class or a function; an object is one."""
    name = path.rpartition(":")[2]
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return found
    try:
        made = found()
    except Exception as error:  # the user's code may raise anything
        raise ModelLoadError(f"MODEL_PATH={path}: {name}() failed, {describe(error)}") from error
    if not _may_be_model(made):
        what = name if inspect.isclass(found) else f"{name}() returned a {type(made).__name__}, which"
        raise ModelLoadError(f"MODEL_PATH={path}: {what} has no method forward(self, batch)")
    return made


def _may_be_model(found: Any) -> bool:
    """Return whether an object is a model, or may be one once it is loaded."""
    return any(callable(getattr(found, name, None)) for name in ("forward", "load", "network")) or isinstance(
        getattr(found, "network", None), nn.Module
    )


def _required(function: Callable[..., Any]) -> list[str]:
    """Return the arguments without which a function can't be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some of C have no signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]


def _no_model(module: ModuleType, module_name: str, name: str) -> str:
    """Say what a module has under a name that is not a model's, and how to name one."""
    classes = [
        each
        for each, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and callable(getattr(value, "forward", None))
    ]
    hint = f"; classes with a forward: {', '.join(classes)}" if classes else "; it has no class with a forward either"
    found = getattr(module, name, None)
    if found is not None:
        return f"{name} is an object of class {type(found).__name__}, which has no forward{hint}"
    return f"{module_name} has no class {name!r}{hint}"


def _import_file(file: Path) -> ModuleType:
    """Import a file as a module named after its stem, even if another module has that name."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # before it runs: dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module
