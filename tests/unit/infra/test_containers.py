"""The Dockerfile: linted, its parts exist, its versions are those of the constraints, its command is ours."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from sam3lt_ray.config.load import load_config
from tests.command_lines import own_arguments, parse
from tests.unit.infra.manifests import INFRA

ROOT = INFRA.parent
DOCKERFILE = INFRA / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
BASES = re.findall(r"^FROM rayproject/ray:(?P<tag>\S+) AS base-(?P<device>\w+)$", TEXT, re.MULTILINE)


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_ray_of_the_constraints_for_both_devices() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    assert [device for _, device in BASES] == ["gpu", "cpu"]
    for tag, device in BASES:
        ray, python, platform = tag.split("-")
        assert f"ray=={ray}" in constraints
        version = re.sub(r"py(\d)(\d+)", r"\1.\2", python)
        assert f"Programming Language :: Python :: {version}" in classifiers
        assert re.fullmatch(r"cpu" if device == "cpu" else r"cu\d{3}", platform)


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    copied = [word for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    ignore = (INFRA / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert sent == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert not any(fnmatch.fnmatch(name, "infra*") for name in copied)


def test_the_readme_that_the_package_is_built_with_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in (project["readme"], *project["license-files"]):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", TEXT, re.MULTILINE), name


def test_it_runs_as_a_person_and_asks_no_hub() -> None:
    users = re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE)
    assert users == ["0", "1000:100"]
    offline, download = TEXT.index("HF_HUB_OFFLINE=1"), TEXT.index("hf download")
    assert download < offline < TEXT.index("USER 1000")


def test_the_download_leaves_nothing_of_roots_in_the_users_home() -> None:
    """The base's HOME is /home/ray for root as well."""
    (command,) = re.findall(r"^RUN --mount=type=secret(?:.*\\\n)*.*$", TEXT, re.MULTILINE)
    assert re.search(r"HF_HOME=(/tmp/\w+) hf download", command)
    assert command.rstrip().endswith("rm -rf /tmp/hf")


def test_the_user_may_keep_compiled_kernels_where_a_volume_can_be_mounted() -> None:
    (folder,) = re.findall(r"TRITON_CACHE_DIR=(\S+)$", TEXT, re.MULTILINE)
    made = 'install --directory --owner=1000 --group=100 --mode=0775 "$TRITON_CACHE_DIR"'
    assert TEXT.index(folder) < TEXT.index(made) < TEXT.index("USER 1000:100")
    assert folder in (INFRA / "README.md").read_text(encoding="utf-8")


def test_its_command_is_ours() -> None:
    (command,) = re.findall(r"^CMD (.+)$", TEXT, re.MULTILINE)
    assert own_arguments(json.loads(command)) == ["--help"]
    (documented,) = set(re.findall(r"(registry\.example\.com/sam3lt-ray:[\d.]+)-(?:gpu|cpu)", TEXT))
    version = re.search(r'__version__ = "(.+)"', (ROOT / "sam3lt_ray" / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    assert documented.endswith(f":{version[1]}")


def test_every_configs_checkpoint_place_is_the_images() -> None:
    """/opt/sam3lt/weights of the examples is where the Dockerfile puts them."""
    assert "WORKDIR /opt/sam3lt" in TEXT
    assert "--local-dir weights" in TEXT
    config = load_config([INFRA / "ray" / "job.yaml"]).config
    assert config.model.checkpoint == "/opt/sam3lt/weights"
    assert parse(["label", "-c", "x.yaml"])["config"] == [Path("x.yaml")]
