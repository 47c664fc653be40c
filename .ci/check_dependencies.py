"""Hold pyproject.toml, .ci/constraints.txt and the generated code against each other.

Every dependency that pyproject.toml names must be pinned, inside its bounds. And where the generated code refuses to
run on an older library, pyproject.toml's lower bound must not promise one: pip would install it, and the import fail.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent

# The library -> where its version stands in the files generated for it.
GENERATED_FOR = {
    "grpcio": ("*_pb2_grpc.py", re.compile(r"GRPC_GENERATED_VERSION = '(.+)'")),
    "protobuf": ("*_pb2.py", re.compile(r"# Protobuf Python Version: (.+)")),
}


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != project["name"]]


def pins() -> dict[str, Version]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def unpinned(requirements: list[Requirement], pinned: dict[str, Version]) -> Iterator[str]:
    for requirement in requirements:
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{requirement}: not pinned in .ci/constraints.txt (make constraints)"
        elif version not in requirement.specifier:
            yield f"{requirement}: pinned outside its bounds, at {version}"


def promised_too_early(requirements: list[Requirement]) -> Iterator[str]:
    for requirement in requirements:
        if requirement.name not in GENERATED_FOR:
            continue
        files, pattern = GENERATED_FOR[requirement.name]
        lowest = min(Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")
        for file in sorted((ROOT / "policyd" / "v1").glob(files)):
            found = pattern.search(file.read_text())
            if found and lowest < Version(found[1]):
                yield f"{requirement}: {file.name} was generated for {found[1]} and refuses an older one"


def main() -> int:
    requirements = dependencies()
    problems = [*unpinned(requirements, pins()), *promised_too_early(requirements)]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
