"""The package as it is installed: what is in the wheel, that it works from there, and how light its command line is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from policyd import __version__

ROOT = Path(__file__).parents[1]

DATA = (
    "policyd/py.typed",
    "policyd/demo/policy.yaml",
    "policyd/prices/data/prices.json",
    "policyd/tokens/data/LICENSE.tiktoken",
    "policyd/tokens/data/cl100k_base.tiktoken.gz",
    "policyd/tokens/data/o200k_base.tiktoken.gz",
)

HEAVY = {
    "envoy",
    "google",
    "grpc",
    "msgspec",
    "prometheus_client",
    "starlette",
    "tiktoken",
    "uvicorn",
    "uvloop",
    "yaml",
}
"""What a command has to import when it runs, and not before."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    # In an environment without the build's tools, pip fetches them.
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", *isolation]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    """Every file in the wheel by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Path:
    """A folder with the wheel's files and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def metadata_folder() -> str:
    return f"policyd-{__version__}.dist-info"


def test_the_wheel_has_the_package_and_nothing_else(contents: dict[str, bytes]) -> None:
    files = (path for path in (ROOT / "policyd").rglob("*") if path.is_file() and path.suffix != ".pyc")
    package = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in contents if not name.startswith(metadata_folder())} == package


def test_the_wheel_has_the_data(contents: dict[str, bytes]) -> None:
    for name in DATA:
        assert contents[name] == (ROOT / name).read_bytes()


def test_the_wheel_has_what_the_protos_generate(contents: dict[str, bytes]) -> None:
    protos = list((ROOT / "proto" / "policyd" / "v1").glob("*.proto"))
    assert protos
    for proto in protos:
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
            assert f"policyd/v1/{proto.stem}{suffix}" in contents


def test_the_wheel_says_what_it_is(contents: dict[str, bytes]) -> None:
    metadata = message_from_bytes(contents[f"{metadata_folder()}/METADATA"])
    assert metadata["Name"] == "policyd"
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert contents[f"{metadata_folder()}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"policyd = policyd.cli:main" in contents[f"{metadata_folder()}/entry_points.txt"]


def test_the_package_works_from_the_wheel(unpacked: Path) -> None:
    """Far from the repository: a file that is read from there would be missing."""
    program = """
from pathlib import Path
import policyd
from policyd.config import load_policy
from policyd.prices.table import load_price_book
from policyd.tokens import TokenCounter
folder = Path(policyd.__file__).parent
load_policy(folder / "demo" / "policy.yaml")
price = load_price_book().find(provider="openai", model="gpt-4o", at_ms=1_700_000_000_000)
tokens = TokenCounter().count_text("Hello there!", provider="openai", model="gpt-4o")
print(folder, price is not None, tokens)
"""
    assert run(program, folder=unpacked) == f"{unpacked / 'policyd'} True 3\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["up", "--help"], ["demo", "--help"]], ids=" ".join)
def test_asking_the_command_line_for_help_loads_little(arguments: list[str]) -> None:
    program = f"""
import atexit, sys
from policyd.cli import main
sys.argv = ["policyd", *{arguments!r}]
atexit.register(lambda: print("loaded:", *sys.modules))
main()
"""
    shown, _, loaded = run(program, folder=ROOT).partition("loaded: ")
    assert "policyd" in shown
    modules = set(loaded.split())
    assert "policyd.cli" in modules
    assert not modules & HEAVY


def run(program: str, *, folder: Path) -> str:
    """What a program prints that finds the package in `folder`."""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    return ran.stdout
