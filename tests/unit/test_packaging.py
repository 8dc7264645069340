"""The distribution: what it requires, what it offers, and what may import what."""

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distribution, entry_points, requires
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "src", ROOT / "src" / "adapters", ROOT / "src" / "entrypoints"]
PACKAGES = sorted(init.parent for folder in FOLDERS for init in folder.glob("*/__init__.py"))
GROUPS = ["uploadcore.stores", "uploadcore.databases", "uploadcore.caches", "uploadcore.publishers"]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def plugins() -> list[EntryPoint]:
    return [plugin for group in GROUPS for plugin in entry_points(group=group)]


def imported_by(file: Path) -> Iterator[str]:
    """The top-level names a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_installing_without_an_extra_pulls_in_nothing() -> None:
    unconditional = [line for line in requires("uploadcore") or [] if "extra ==" not in line]

    assert unconditional == []


def test_the_extra_all_holds_every_other() -> None:
    extras = set(distribution("uploadcore").metadata.get_all("Provides-Extra") or [])
    [everything] = pyproject()["project"]["optional-dependencies"]["all"]

    assert everything == f"uploadcore[{','.join(sorted(extras - {'all'}))}]"


def test_every_package_has_a_name_of_its_own_and_types() -> None:
    assert PACKAGES, "no package found"
    for package in PACKAGES:
        assert package.name == "uploadcore" or package.name.startswith("uploadcore_")
        assert (package / "py.typed").exists()


@pytest.mark.parametrize("folder", ["adapters", "entrypoints"])
def test_a_folder_of_packages_is_not_itself_one(folder: str) -> None:
    assert not list((ROOT / "src" / folder).glob("*.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_is_imported_from_its_folder_under_its_own_name(package: Path) -> None:
    module = importlib.import_module(package.name)

    assert module.__file__ == str(package / "__init__.py")
    assert module.__doc__


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_layers_name_every_package(package: Path) -> None:
    assert package.name in pyproject()["tool"]["importlinter"]["root_packages"]
    layers = [
        layer for contract in pyproject()["tool"]["importlinter"]["contracts"] for layer in contract.get("layers", [])
    ]
    assert package.name in " | ".join(layers).split(" | ")


@pytest.mark.parametrize("plugin", plugins(), ids=lambda plugin: f"{plugin.group}:{plugin.name}")
def test_a_plugin_can_be_loaded(plugin: EntryPoint) -> None:
    assert callable(plugin.load())


def test_the_installed_metadata_is_that_of_the_source() -> None:
    declared = {
        (group, *entry) for group, table in pyproject()["project"]["entry-points"].items() for entry in table.items()
    }

    assert {(plugin.group, plugin.name, plugin.value) for plugin in plugins()} == declared


def test_the_command_can_be_loaded() -> None:
    [command] = entry_points(group="console_scripts", name="uploadcore")

    assert callable(command.load())


def test_the_core_imports_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"uploadcore"}
    core = ROOT / "src" / "uploadcore"
    testing = core / "testing"

    for file in core.rglob("*.py"):
        if testing not in file.parents:
            assert set(imported_by(file)) <= allowed, file
        else:
            assert set(imported_by(file)) <= allowed | {"pytest", "hypothesis"}, file
