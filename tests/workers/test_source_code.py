"""Definitions with a docstring, read from source that is never imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autopeft.errors import DataError
from autopeft.workers.source_code import (
    MAX_SIGNATURE_CHARACTERS,
    STANDARD_LIBRARY,
    library_version,
    read_definitions,
    read_modules,
)

SOURCE = '''"""What the module is."""
import nothing_of_the_kind

class A(Base, metaclass=M):
    """A class.  """

    def f(self, x: int = 1, *rest, key=None, **more) -> list[str]:
        """Do it.

        In detail.
        """
        def inner():
            """Never seen."""

    class B:
        async def g(self):
            """Wait."""

def undocumented():
    return 1

@decorated
def h(a, /, b, *, c):
    \'\'\'Say so.\'\'\'
'''


def headers(source: str, module: str = "part/a.py") -> list[tuple[str, str, str]]:
    found = read_definitions(source.encode(), "lib", module)
    return [(each.owner, each.header, each.docstring) for each in found]


def test_definitions_are_read_in_order_of_depth() -> None:
    assert headers(SOURCE) == [
        ("lib.part.a", "", "What the module is."),
        ("lib.part.a", "class A(Base):", "A class."),
        ("lib.part.a", "def h(a, /, b, *, c):", "Say so."),
        (
            "lib.part.a.A",
            "def f(self, x: int=1, *rest, key=None, **more) -> list[str]:",
            "Do it.\n\nIn detail.",
        ),
        ("lib.part.a.A.B", "def g(self):", "Wait."),
    ]


@pytest.mark.parametrize(
    ("module", "owner"),
    [("__init__.py", "lib"), ("part/__init__.py", "lib.part"), ("a.py", "lib.a")],
)
def test_packages_are_called_as_they_are_imported(module: str, owner: str) -> None:
    assert headers('"""It."""\n', module) == [(owner, "", "It.")]


def test_functions_are_told_from_classes() -> None:
    kinds = [each.is_function for each in read_definitions(SOURCE.encode(), "lib", "a.py")]
    assert kinds == [False, False, True, True, True]


def test_long_signatures_are_cut() -> None:
    names = [f"argument_{number:02d}" for number in range(8)]
    annotated = ", ".join(f"{name}: dict[str, list[int]] = DEFAULT" for name in names)
    (only,) = headers(f'def f({annotated}) -> {"x" * 60}:\n    """Do it."""\n')
    assert only[1] == f"def f({', '.join(names)}):"
    many = ", ".join(f"argument_{number:02d}" for number in range(40))
    (only,) = headers(f'def f({many}):\n    """Do it."""\n')
    assert len(only[1]) < MAX_SIGNATURE_CHARACTERS + 20
    assert only[1].endswith(", ...):")


@pytest.mark.parametrize("source", ["def (:\n", "x = '\x00'\n", "{{ template }}\nclass\n"])
def test_what_cannot_be_parsed_is_passed_over(source: str) -> None:
    assert headers(source) == []


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    root = tmp_path / "quagga_lib"
    for name in ("__init__.py", "a.py", "b.py", "sub/c.py", "tests/d.py", "_vendor/e.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{name} says so."""\nraise AssertionError("imported")\n')
    (root / "huge.py").write_text('"""Too large."""\n' + "# x\n" * 50_000)
    return root


def test_modules_are_visited_in_an_order_of_their_own(library: Path) -> None:
    orders = [[module for module, _ in read_modules("quagga_lib", seed)] for seed in range(6)]
    assert all(sorted(order) == ["__init__.py", "a.py", "b.py", "sub/c.py"] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert orders[0] == [module for module, _ in read_modules("quagga_lib", 0)]
    assert "quagga_lib" not in sys.modules
    some = read_modules("quagga_lib", 0, is_wanted=lambda module: module != "a.py")
    assert [module for module, _ in some] == [m for m in orders[0] if m != "a.py"]


def test_a_library_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="no_such_library is not installed"):
        next(read_modules("no_such_library", 0))


def test_the_standard_library_has_pythons_version() -> None:
    assert library_version(STANDARD_LIBRARY, "python") == ".".join(map(str, sys.version_info[:3]))
    assert library_version("torch", "no-such-distribution") is None
    wanted = read_modules(STANDARD_LIBRARY, 0, is_wanted=lambda module: module == "textwrap.py")
    ((module, definitions),) = wanted
    assert module == "textwrap.py"
    assert definitions[0].owner == "textwrap"
