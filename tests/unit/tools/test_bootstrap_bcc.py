"""tracer.probes.bcc_check: the right bcc, none, a broken one, and the unrelated one."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from tracer.common.errors import Exit, TraceError
from tracer.probes.bcc_check import import_bcc


def _spec(folder: Path) -> ModuleSpec:
    spec = ModuleSpec("bcc", None, origin=str(folder / "__init__.py"), is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(folder))
    return spec


def _module(folder: Path, **names: object) -> ModuleType:
    module = ModuleType("bcc")
    module.__spec__ = _spec(folder)
    vars(module).update(names)
    return module


def _raising(error: Exception) -> Callable[[str], ModuleType]:
    def importer(name: str) -> ModuleType:
        assert name == "bcc"
        raise error

    return importer


def _error(importer: Callable[[str], ModuleType], spec: ModuleSpec | None = None) -> TraceError:
    with pytest.raises(TraceError) as caught:
        import_bcc(importer, lambda name: spec)
    assert caught.value.code == Exit.NO_BCC
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_right_one_is_returned(tmp_path: Path) -> None:
    module = _module(tmp_path, BPF=type("BPF", (), {}))
    assert import_bcc(lambda name: module) is module


def test_missing() -> None:
    error = _error(_raising(ModuleNotFoundError("No module named 'bcc'", name="bcc")))
    assert sys.executable in error.message
    assert "python3-bpfcc" in error.hint
    assert "unrelated" in error.hint


@pytest.mark.parametrize("names", [{}, {"BPF": 3}, {"BPF": None}])
def test_unrelated_package_that_imports(tmp_path: Path, names: dict[str, object]) -> None:
    module = _module(tmp_path / "bcc", **names)
    error = _error(lambda name: module)
    assert str(tmp_path / "bcc") in error.message
    assert "unrelated" in error.message
    assert "pip uninstall bcc" in error.hint


@pytest.mark.parametrize(
    "failure",
    [
        ModuleNotFoundError("No module named 'torch'", name="torch"),
        SyntaxError("Missing parentheses in call to 'print'"),
        RuntimeError("no GPU"),
    ],
)
def test_unrelated_package_that_fails_to_import(tmp_path: Path, failure: Exception) -> None:
    error = _error(_raising(failure), _spec(tmp_path))
    assert "unrelated" in error.message
    assert str(tmp_path) in error.message


def test_a_folder_called_bcc_hides_it(tmp_path: Path) -> None:
    module = ModuleType("bcc")
    module.__spec__ = ModuleSpec("bcc", None, is_package=True)
    module.__spec__.submodule_search_locations = [str(tmp_path / "bcc")]
    assert str(tmp_path / "bcc") in _error(lambda name: module).message


def test_the_right_one_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "libbcc.py").touch()
    failure = OSError("libbcc.so.0: cannot open shared object file")
    error = _error(_raising(failure), _spec(tmp_path))
    assert "libbcc.so.0" in error.message
    assert "unrelated" not in str(error)


def test_a_hostile_path_is_made_printable(tmp_path: Path) -> None:
    module = _module(tmp_path / "\x1b[31mbcc")
    assert "\x1b" not in str(_error(lambda name: module))


def test_a_real_package_in_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same through the import system itself."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("VERSION = '0.1'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name == "bcc" or name.startswith("bcc.")]:
        monkeypatch.delitem(sys.modules, name)
    try:
        with pytest.raises(TraceError, match="unrelated") as caught:
            import_bcc()
    finally:
        sys.modules.pop("bcc", None)
    assert str(tmp_path / "bcc") in caught.value.message
