"""What the documents say holds: links and paths exist, commands parse, examples load. Nothing is run."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

from sam3lt_ray.cli import app
from sam3lt_ray.config.fingerprint import declared_settings
from sam3lt_ray.config.load import load_config
from sam3lt_ray.errors import ImageErrorKind
from sam3lt_ray.labels.schema import INSTANCE_TYPE, LABEL_SCHEMA
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.command_lines import own_arguments, parse

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sam3lt_ray"
# Not the changelog: it may speak of what is gone.
REFERENCE = ("docs/input.md", "docs/output.md", "docs/growing.md", "docs/estimates.md")
DOCUMENTS = ("README.md", *REFERENCE, "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "infra/README.md")
# Files of a run directory, whose first part is also the name of a folder of the package.
RUN_FILES = {"exports/coco/instances.json", "report/index.html"}

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
INLINE_CODE = re.compile(r"`(?P<text>[^`\n]+)`")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
MAKE_TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match["language"], match["text"])
        for document in DOCUMENTS
        for text in [read(document)]
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


def prose(document: str) -> str:
    return FENCE.sub("", read(document))


def inline_code(document: str) -> list[str]:
    return [match["text"] for match in INLINE_CODE.finditer(prose(document))]


def command_lines() -> list[str]:
    """Command lines of shell blocks, and inline ones that are complete (no ellipsis or placeholder)."""
    lines = [line for block in blocks("bash") for line in block.text.splitlines()]
    lines += [text for document in DOCUMENTS for text in inline_code(document)]
    return sorted({line.strip() for line in lines if line.strip() and "..." not in line and "|" not in line})


def sam3lt_arguments(line: str) -> list[str] | None:
    """What our command line would be given; None for other commands."""
    return own_arguments(shlex.split(line.partition(" > ")[0], comments=True))


OWN_COMMANDS = {shlex.join(words): words for line in command_lines() if (words := sam3lt_arguments(line)) is not None}


def relative_links() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for match in LINK.finditer(prose(document)):
            if "://" not in match["target"] and not match["target"].startswith("#"):
                yield document, match["target"].partition("#")[0]


def mentioned_paths() -> Iterator[tuple[str, str]]:
    """Inline code that looks like a path below a folder of ours, or like the name of a source file."""
    for document in DOCUMENTS:
        for text in inline_code(document):
            if PATH.fullmatch(text) is None or text in RUN_FILES or text.startswith(".venv/"):
                continue
            first, slash, _ = text.partition("/")
            is_below_ours = bool(slash) and any((base / first).is_dir() for base in (ROOT, PACKAGE))
            if is_below_ours or text.endswith((".py", ".md", ".toml")):
                yield document, text


def exists(path: str) -> bool:
    """From the root, inside the package (where modules may stand without ".py"), or a bare file name anywhere."""
    if any((base / name).exists() for base in (ROOT, PACKAGE) for name in (path, f"{path}.py")):
        return True
    folders = (PACKAGE, ROOT / "tests")
    return "/" not in path and any(next(folder.rglob(path), None) is not None for folder in folders)


@pytest.mark.parametrize(("document", "target"), sorted(set(relative_links())))
def test_relative_links_lead_somewhere(document: str, target: str) -> None:
    assert (ROOT / document).parent.joinpath(target).exists(), f"{document} links to {target}, which does not exist"


@pytest.mark.parametrize(("document", "path"), sorted(set(mentioned_paths())))
def test_mentioned_paths_exist(document: str, path: str) -> None:
    assert exists(path), f"{document} mentions {path}, which does not exist"


@pytest.mark.parametrize("arguments", OWN_COMMANDS.values(), ids=OWN_COMMANDS.keys())
def test_commands_parse(arguments: list[str]) -> None:
    parse(arguments)


def test_commands_name_config_files_that_exist() -> None:
    configs = [path for words in OWN_COMMANDS.values() for path in parse(words).get("config") or []]
    assert configs
    missing = [str(path) for path in configs if path.parts[0] == "configs" and not (ROOT / path).is_file()]
    assert missing == []


def test_the_readme_leads_to_all_of_the_reference() -> None:
    targets = {target for document, target in relative_links() if document == "README.md"}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} <= targets
    assert set(REFERENCE) <= targets


# The sections of infra/README.md that tell a way to run it, and the word in their blocks that begins the labeling.
WAYS = {
    "KubeRay": "overlays/gpu",
    "KubeRay without GPUs": "overlays/cpu-dev",
    "A Ray cluster on AWS": "jobs/label.py -c job.yaml",
    "SkyPilot": "sky jobs launch",
    "Every night: CronJob": "--from=cronjob/",
    "Every night: Airflow": "airflow dags trigger",
    "Every night: Dagster": "dagster job execute",
    "Every night: Argo Workflows": "argo submit",
}


def sections(document: str) -> dict[str, str]:
    """Text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", read(document), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_way_to_run_it_is_told_in_ten_lines_from_the_clone_to_the_first_labels() -> None:
    found = sections("infra/README.md")
    cloning = [title for title, text in found.items() if "git clone" in text]
    assert cloning == list(WAYS)
    for title, start in WAYS.items():
        lines = FENCE.findall(found[title])[0][1].splitlines()
        assert len(lines) <= 10, title
        assert [number for number, line in enumerate(lines) if "git clone" in line] == [0], title
        assert "docker build" in lines[1], title
        assert "docker push" in lines[1], title
        assert any(start in line for line in lines[2:]), title
        # All of it is to be done: a line that is one of several ways is another block.
        comments = " ".join(line.partition("  #")[2] for line in lines)
        assert re.findall(r"\bor:|\beither\b", comments) == [], title
        folders = set(re.findall(r"infra/(airflow|dagster|argo|skypilot|ray)/", "\n".join(lines)))
        assert len(folders) <= 1, title


def test_the_price_comes_before_the_first_look_and_that_before_the_rest() -> None:
    found = sections("infra/README.md")
    for title in ("KubeRay", "A Ray cluster on AWS", "SkyPilot"):
        text = FENCE.findall(found[title])[0][1]
        price = re.search(r"overlays/plan|sam3lt plan|plan --calibrate", text)
        look = re.search(r"overlays/first-look|--limit 100", text)
        assert price is not None, title
        assert look is not None, title
        assert price.start() < look.start() < text.rindex(WAYS[title]), title


def test_only_copies_that_have_ended_are_deleted() -> None:
    """kubectl takes names or a selector, and a selector does not see a RayJob's state."""
    (line,) = [line for block in blocks("bash") for line in block.text.splitlines() if "xargs -r kubectl" in line]
    label = re.search(r" -l (\S+)=(\S+) ", line)
    assert label is not None
    copies = runpy.run_path(str(ROOT / "jobs" / "start_rayjob.py"))["COPY_LABEL"]
    assert copies == {label[1]: label[2]}
    program = shlex.split(line.split("|")[1] + "|".join(["", *line.split("|")[2:-1]]))
    assert program[0] == "awk"
    rows = ["done Complete", "bad Failed", "wrong ValidationFailed", "busy Running", "again Retrying", "new <none>"]
    done = subprocess.run(program, input="\n".join(rows), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["done", "bad", "wrong"]


def test_every_command_is_in_the_readme() -> None:
    readme = read("README.md")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in commands if f"sam3lt {name}" not in readme] == []


@pytest.mark.parametrize("wrong", [["lable"], ["plan", "--config"], ["label", "--limit", "0"], ["export"]])
def test_a_wrong_command_would_be_noticed(wrong: list[str]) -> None:
    # Click's own class: typer may carry a copy of click.
    with pytest.raises(Exception) as caught:  # noqa: PT011
        parse(wrong)
    assert isinstance(caught.value, KeyError) or "UsageError" in {c.__name__ for c in type(caught.value).__mro__}


def test_make_targets_exist() -> None:
    targets = set(MAKE_TARGET.findall(read("Makefile")))
    words = [shlex.split(line, comments=True) for line in command_lines() if line.startswith("make ")]
    named = {word for line in words for word in line[1:] if not word.startswith("-") and "=" not in word}
    assert named
    assert named <= targets


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_examples_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(block.text, encoding="utf-8")
    if "run" in yaml.safe_load(block.text):
        loaded = load_config([file])
        assert load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir).labels
    else:
        assert load_vocabulary(str(file)).labels


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_examples_compile(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_labeling_one_image_from_python_is_three_lines() -> None:
    (example,) = [block for block in blocks("python") if "Labeler" in block.text]
    assert len([line for line in example.text.splitlines() if line.strip()]) == 3


def test_readme_and_reference_name_every_column_error_kind_and_only_settings_there_are() -> None:
    readme_code = " ".join(text for document in ("README.md", *REFERENCE) for text in inline_code(document))
    names = [*LABEL_SCHEMA.names, *(field.name for field in INSTANCE_TYPE), *get_args(ImageErrorKind)]
    assert [name for name in names if not re.search(rf"\b{name}\b", readme_code)] == []

    settings = {name for name, _ in declared_settings()}
    sections = {name.partition(".")[0] for name in settings if "." in name}
    dotted = re.findall(r"(?<![\w./])([a-z]+\.[a-z_]+)(?![\w./(])", readme_code)
    named = {name for name in dotted if name.partition(".")[0] in sections and not name.endswith((".json", ".html"))}
    assert named
    assert named <= settings


def test_documents_are_free_of_placeholders() -> None:
    found = [document for document in DOCUMENTS if "DEMO_OUTPUT" in read(document)]
    assert found == []
