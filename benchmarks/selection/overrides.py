"""`--set policy.selection.ERRORS=0`: smartroute with another value for one of its constants.

The assignment is changed in the module's source as it is imported, so that whatever is derived from the
constant (defaults of arguments and fields, other constants) follows; no file is touched.
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

__all__ = ["Overridden", "parse", "smart"]

PACKAGE = "smartroute"
DRIVEN = ("benchmarks.selection.smart", "benchmarks.selection.probing", "benchmarks.selection.watching")
"""What imports smartroute here."""

Overridden = tuple[tuple[str, str], ...]
"""Constants by their full names, and the literals that replace their values."""

_current: Overridden = ()


def parse(given: str) -> tuple[str, str]:
    """Read `policy.selection.ERRORS=0`.

    Raises:
        ValueError: there is no such constant, or the value is no literal.
    """
    name, _, value = given.partition("=")
    name = name.removeprefix(f"{PACKAGE}.")
    module, _, constant = name.rpartition(".")
    try:
        ast.literal_eval(value)
    except (SyntaxError, ValueError):
        raise ValueError(f"{given}: expected NAME=VALUE with a number, a text or a tuple") from None
    spec = PathFinder.find_spec(PACKAGE)
    for part in module.split("."):
        within = spec.submodule_search_locations if spec else None
        parent = spec.name if spec else ""
        spec = PathFinder.find_spec(f"{parent}.{part}", within) if within else None
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise ValueError(f"{given}: there is no module {PACKAGE}.{module}")
    tree = ast.parse(spec.loader.get_data(spec.loader.path))
    constants = [target for statement in tree.body if (target := _target(statement)) and target.isupper()]
    if constant not in constants:
        raise ValueError(f"{given}: {PACKAGE}.{module} has {', '.join(constants) or 'no constants'}")
    return f"{PACKAGE}.{name}", value


def smart(settings: Overridden) -> ModuleType:
    """The module of the driver, on a smartroute with these constants."""
    global _current  # noqa: PLW0603 - what is imported is global
    if settings != _current:
        for name in tuple(sys.modules):
            if name in DRIVEN or name == PACKAGE or name.startswith(f"{PACKAGE}."):
                del sys.modules[name]
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        if settings:
            sys.meta_path.insert(0, _Finder(settings))
        _current = settings
    return importlib.import_module(DRIVEN[0])


class _Finder:
    """Finds the modules whose constants are changed."""

    def __init__(self, settings: Overridden) -> None:
        self._values: dict[str, dict[str, str]] = {}
        for name, value in settings:
            module, _, constant = name.rpartition(".")
            self._values.setdefault(module, {})[constant] = value

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._values:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._values[name])
        return spec


class _Loader(SourceFileLoader):
    """Compiles a module with other values; the cache of compiled modules stays out of it."""

    def __init__(self, name: str, path: str, values: dict[str, str]) -> None:
        super().__init__(name, path)
        self._values = values

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the signature of its kind
        tree = ast.parse(self.get_data(self.path))
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and (target := _target(statement)) in self._values:
                value = ast.parse(self._values[target or ""], mode="eval").body
                statement.value = ast.copy_location(value, statement)
                ast.fix_missing_locations(statement)
        return compile(tree, self.path, "exec", dont_inherit=True)


def _target(statement: ast.stmt) -> str | None:
    """The name that a statement assigns to."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return None
