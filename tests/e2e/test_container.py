"""The container: as locked down as docker-compose.yml says, and policyd works like that.

A mount namespace stands in for the container: its root is read-only but for the volume and /tmp, as the compose file
has it, and its user has no more rights than an ordinary one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import POLICY, written
from tests.e2e.mesh import policyd_serve

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

# Binds the whole tree read-only elsewhere, the volume writable at its own path in there, and an empty /tmp; enters it.
ENTER = """
set -e
root=$1 volume=$2 folder=$PWD
shift 2
mount --rbind / "$root"
mount -o remount,ro,bind "$root"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$volume"
mount --bind "$volume" "$root$volume"
exec chroot "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


@pytest.mark.parametrize("service", sorted(COMPOSE["services"]))
def test_every_service_is_locked_down(service: str) -> None:
    found = COMPOSE["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]


def test_no_service_runs_as_root() -> None:
    dockerfile = (ROOT / COMPOSE["services"]["policyd"]["build"]["dockerfile"]).read_text()
    users = [line.split()[1] for line in dockerfile.splitlines() if line.startswith("USER ")]
    users += [service["user"] for service in COMPOSE["services"].values() if "user" in service]
    assert len(users) == len(COMPOSE["services"])
    assert not [user for user in users if user.split(":")[0] in ("0", "root")]


def test_policyd_writes_to_its_volume_alone(tmp_path: Path) -> None:
    root, volume = tmp_path / "root", tmp_path / "volume"
    root.mkdir()
    volume.mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ENTER, "sh", str(root), str(volume)]
    try:
        subprocess.run([*enter, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespaces here: {error}")
    refused = subprocess.run(
        [*enter, "touch", str(Path(__file__).parent / "written")], capture_output=True, check=False
    )
    assert b"Read-only file system" in refused.stderr
    policy = written(POLICY, folder=volume)
    with policyd_serve(store=f"sqlite:///{volume}/policyd.db", policy=policy, launcher=enter) as policyd:
        assert policyd.balance("project-spend", project="acme").spent == 0
        assert policyd.get("/readyz") == (200, "ok\n")
    assert (volume / "policyd.db").exists()
