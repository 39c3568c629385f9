"""Find the App that the text after ``--app`` means, or say in one sentence why there is none.

``module:attribute`` is exact; ``module`` takes the App in that module, which is called ``app`` if it has several; with
``module.attribute`` the last part may be either.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from leveret.app.app import App
from leveret.errors import AppError

__all__ = ["load_app"]

_DEFAULT_NAME: Final = "app"
_NOT_THE_USERS: Final = ("<frozen", str(Path(importlib.__file__).parent) + os.sep, str(Path(__file__).parent.parent) + os.sep)
"""How the files begin whose frames say nothing about where an import failed: the import system's, and ours."""


def load_app(text: str) -> App:
    """Import the module and return the App in it; the current folder is looked in first, as by ``python -m``.

    Raises:
        AppError: there is no such module or App, or importing it failed; the message says what was looked for, what was found
            and what to write instead.

    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, colon, attribute = text.strip().partition(":")
    _check(text, module_name)
    if colon and not attribute:
        raise AppError(f"--app={text} names no attribute after the colon; write --app={module_name}:{_DEFAULT_NAME}")
    if colon:
        return _attribute(_load(module_name), attribute)
    parent, _, last = module_name.rpartition(".")
    if parent and not _exists(module_name) and _exists(parent) and hasattr(_load(parent), last):
        return _attribute(_load(parent), last)
    return _only(_load(module_name))


def _check(text: str, module_name: str) -> None:
    """Refuse what cannot be a module's name, above all files."""
    if all(part.isidentifier() for part in module_name.split(".")) and not module_name.endswith(".py"):
        return
    if not module_name:
        raise AppError("--app names no module; write --app=module:attribute, as in --app=shop.tasks:app")
    stem = module_name.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
    hint = (
        f"write --app={stem}:{_DEFAULT_NAME}" if all(part.isidentifier() for part in stem.split(".")) else "as in shop.tasks:app"
    )
    raise AppError(f"--app={text} must name a module as an import statement does, not a file; {hint}")


def _exists(module_name: str) -> bool:
    """Tell whether there is a module of that name; its parents are imported on the way, and their errors told."""
    parent = module_name.rpartition(".")[0]
    if parent:
        if not _exists(parent):
            return False
        if not hasattr(_load(parent), "__path__"):
            return False
    try:
        return module_name in sys.modules or importlib.util.find_spec(module_name) is not None
    except ValueError:  # a module without a __spec__, which __main__ may be
        return True


def _load(module_name: str) -> ModuleType:
    if not _exists(module_name):
        raise AppError(_no_module(module_name))
    try:
        return importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    # Whatever the user's module does when it is imported, sys.exit() included, is told as one sentence.
    except BaseException as error:
        raise AppError(
            f"importing {module_name} failed: {type(error).__name__}: {_text(error)}{_place(error)}",
            traceback="".join(traceback.format_exception(error)),
        ) from error


def _attribute(module: ModuleType, path: str) -> App:
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise AppError(f"module {module.__name__} has no attribute {path!r}; {_apps_there(module, path)}")
        found = getattr(found, name)
    if isinstance(found, App):
        return found
    kind = type(found)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise AppError(f"{module.__name__}:{path} is of type {name}, not a leveret.App; {_apps_there(module, path)}")


def _only(module: ModuleType) -> App:
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if _DEFAULT_NAME in apps:
        return apps[_DEFAULT_NAME]
    if apps:
        names = ", ".join(apps)
        raise AppError(f"module {module.__name__} has several Apps ({names}); write --app={module.__name__}:{next(iter(apps))}")
    raise AppError(
        f'module {module.__name__} ({_file(module)}) has no leveret.App in it; add app = App("{module.__name__.split(".")[0]}")'
    )


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _apps_there(module: ModuleType, wanted: str) -> str:
    """Say which Apps the module has, the likeliest first."""
    apps = _apps(module)
    if not apps:
        return f'there is no App in {_file(module)}; add app = App("{module.__name__.split(".")[0]}")'
    near = difflib.get_close_matches(wanted, apps, n=1, cutoff=0) or list(apps)
    return f"write --app={module.__name__}:{near[0]}"


def _no_module(module_name: str) -> str:
    parent, _, last = module_name.rpartition(".")
    if parent and not _exists(parent):
        return _no_module(parent)
    if parent:
        package = _load(parent)
        if not hasattr(package, "__path__"):
            kind = f"{parent} ({_file(package)}) is a module, not a package"
            return f"there is no module {module_name}: {kind}; {_apps_there(package, last)}"
        places: Sequence[str] = list(package.__path__)
        where = f"in the package {parent} ({places[0]})"
    else:
        places = [os.getcwd()]
        where = f"in the current folder ({os.getcwd()}) or on sys.path"
    known = [found.name for found in pkgutil.iter_modules(list(places))]
    near = difflib.get_close_matches(last, known, n=1)
    if near:
        hint = f"did you mean {parent + '.' if parent else ''}{near[0]}?"
    elif known:
        hint = f"there is {', '.join(sorted(known)[:5])}"
    else:
        hint = "start it in the folder that your import statements begin at, or add that to PYTHONPATH"
    return f"there is no module {module_name} {where}; {hint}"


def _text(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)  # its str() has the place, differently


def _place(error: BaseException) -> str:
    """Return the file and line the error came from, as `` (shop/tasks.py:3)``; nothing if nobody knows.

    Where this package raised it, that is the line that called this package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({_short(error.filename)}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_USERS)]
    if not frames:
        return ""
    return f" ({_short(frames[-1].filename)}:{frames[-1].lineno})"


def _file(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _short(file) if file else "built in"


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
