"""--app: what it means, and the one sentence for everything that is wrong with it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leveret.app.find import load_app
from leveret.errors import AppError

APP = "from leveret import App\napp = App({name!r})\n"

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that writes a module with a new name into the current folder; what is imported is forgotten again."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    prefix = f"m{next(_numbers)}_"

    def write(name: str, source: str) -> str:
        file = tmp_path / Path(*(prefix + name).split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.parent != tmp_path:
            (file.parent / "__init__.py").touch()
        file.write_text(source)
        return prefix + name

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(prefix):
            del sys.modules[name]


def message(text: str) -> str:
    """Return the sentence for what is wrong."""
    with pytest.raises(AppError) as caught:
        load_app(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_module_and_attribute(module: Callable[..., str]) -> None:
    """The attribute may have any name, and be an attribute's attribute."""
    name = module("tasks", APP.format(name="shop") + "other = App('other')\nclass Box: inner = other\n")
    assert load_app(f"{name}:app").name == "shop"
    assert load_app(f"{name}:other").name == "other"
    assert load_app(f"{name}:Box.inner").name == "other"


def test_a_module_alone_is_its_app(module: Callable[..., str]) -> None:
    """Its only App under any name, also twice, or of several the one called app."""
    assert load_app(module("one", "from leveret import App\nqueue = also = App('one')\n")).name == "one"
    assert load_app(module("two", APP.format(name="first") + "b = App('second')\n")).name == "first"
    assert load_app(module("pack.tasks", APP.format(name="deep"))).name == "deep"


def test_the_last_part_may_be_an_attribute(module: Callable[..., str]) -> None:
    """``module.attribute`` works as in Celery."""
    assert load_app(module("tasks", APP.format(name="shop")) + ".app").name == "shop"


def test_the_current_folder_is_looked_in_first(module: Callable[..., str]) -> None:
    """It is put on sys.path as ``python -m`` does, once."""
    name = module("tasks", APP.format(name="shop"))
    load_app(name)
    load_app(name)
    assert sys.path.count(str(Path.cwd())) == 1


def test_no_such_module(module: Callable[..., str]) -> None:
    """The error says where was looked and which module has a similar name."""
    name = module("tasks", APP.format(name="shop"))
    typo = name.replace("tasks", "tusks")
    assert message(typo) == (
        f"there is no module {typo} in the current folder ({Path.cwd()}) or on sys.path; did you mean {name}?"
    )
    inner = module("pack.tasks", "")
    package = inner.rpartition(".")[0]
    assert f"there is no module {package}.tusks in the package {package}" in message(f"{package}.tusks:app")
    assert f"did you mean {inner}?" in message(f"{package}.tusks:app")
    assert f"there is no module {name}.sub: {name} ({name}.py) is a module, not a package" in message(f"{name}.sub:app")


def test_an_empty_folder_has_a_hint(module: Callable[..., str]) -> None:
    """Nothing similar is there: perhaps it is the wrong folder."""
    assert "PYTHONPATH" in message("nothing_like_this")


def test_no_app_in_it(module: Callable[..., str]) -> None:
    """The error says what is there instead and what to write."""
    empty = module("empty", "x = 3\n")
    assert message(empty) == f'module {empty} ({empty}.py) has no leveret.App in it; add app = App("{empty}")'
    assert f"module {empty} has no attribute 'app'" in message(f"{empty}:app")
    assert f"{empty}:x is of type int, not a leveret.App" in message(f"{empty}:x")
    full = module("full", APP.format(name="shop"))
    assert message(f"{full}:apps") == f"module {full} has no attribute 'apps'; write --app={full}:app"
    several = module("several", "from leveret import App\na, b = App('a'), App('b')\n")
    assert message(several) == f"module {several} has several Apps (a, b); write --app={several}:a"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' ({}.py:1)"),
        ("\nx = (\n", "SyntaxError: '(' was never closed ({}.py:2)"),
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError: division by zero ({}.py:2)"),
        ("import sys\nsys.exit('not today')\n", "SystemExit: not today ({}.py:2)"),
    ],
)
def test_an_error_inside_it(module: Callable[..., str], source: str, words: str) -> None:
    """The sentence has the error's type, text and place; the traceback is there for those who ask."""
    name = module("broken", source)
    with pytest.raises(AppError) as caught:
        load_app(f"{name}:app")
    assert str(caught.value) == f"importing {name} failed: {words.format(name)}"
    assert caught.value.traceback.startswith("Traceback")
    assert f"{name}.py" in caught.value.traceback


def test_an_import_error_inside_a_package_is_not_a_missing_module(module: Callable[..., str]) -> None:
    """A module that is there and cannot be imported is told as such, however deep."""
    name = module("pack.broken", "import no_such_library\n")
    assert f"importing {name} failed: ModuleNotFoundError" in message(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--app names no module"),
        ("tasks.py", "write --app=tasks:app"),
        ("./shop/tasks.py", "write --app=shop.tasks:app"),
        ("shop/tasks", "write --app=shop.tasks:app"),
        ("tasks:", "write --app=tasks:app"),
        ("my tasks", "as in shop.tasks:app"),
    ],
)
def test_what_is_no_module_name(module: Callable[..., str], text: str, words: str) -> None:
    """Files and half sentences are shown what to write."""
    assert words in message(text)
