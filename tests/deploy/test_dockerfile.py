"""The Dockerfile and what goes into its build, judged without a Docker engine: no build machine has one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|API_KEY|MASTER_KEY|REDIS_URL", re.IGNORECASE)


class Instruction(NamedTuple):
    """One instruction, its continued lines joined; `stage` counts FROM."""

    line: int
    stage: int
    name: str
    text: str


def instructions(dockerfile: str) -> list[Instruction]:
    found: list[Instruction] = []
    stage, begun, text = -1, 0, ""
    for number, line in enumerate(dockerfile.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        begun = begun or number
        text += line.removesuffix("\\").strip() + " "
        if line.endswith("\\"):
            continue
        name, _, rest = text.strip().partition(" ")
        stage += name == "FROM"
        found.append(Instruction(begun, stage, name, rest))
        begun, text = 0, ""
    return found


def lint(dockerfile: str) -> list[str]:
    """What is wrong, `line: text`, by line."""
    all_of_them = instructions(dockerfile)
    last = max(each.stage for each in all_of_them)
    arguments = dict(each.text.split("=", 1) for each in all_of_them if each.name == "ARG" and "=" in each.text)
    found: list[tuple[int, str]] = []
    for each in all_of_them:
        found += [(each.line, text) for text in _wrong(each, last, arguments)]
    users = [each for each in all_of_them if each.stage == last and each.name == "USER"]
    after = [each for each in all_of_them if users and each.stage == last and each.line > users[-1].line]
    end = all_of_them[-1].line
    if not users or not re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1].text):
        found.append((users[-1].line if users else end, "the image runs as root, or as a name that Kubernetes cannot judge"))
    found += [(each.line, "built as the user that runs it") for each in after if each.name in ("RUN", "COPY", "ADD")]
    if last == 0:
        found.append((end, "one stage: the image holds what built it"))
    return [f"{line}: {text}" for line, text in sorted(found)]


def _wrong(each: Instruction, last: int, arguments: dict[str, str]) -> list[str]:
    found = []
    if each.name == "FROM":
        image = re.sub(r"\$\{(\w+)\}", lambda name: arguments.get(name[1], ""), each.text.split()[0])
        if not re.search(r":[^:/]*\d+\.\d+\.\d+", image):
            found.append("the image is not pinned to a patch release")
        if "/" in image and re.search(r"[.:]|^localhost$", image.partition("/")[0]):
            found.append("a registry's host is named")
    if each.name == "ADD":
        found.append("ADD fetches and unpacks: COPY")
    if re.search(r"https?://|--(extra-)?index-url|--trusted-host", each.text):
        found.append("an address on the network is named")
    if each.name in ("ENV", "ARG") and _SECRET.search(each.text):
        found.append("a secret would stay in the image's history")
    if each.name == "COPY" and (re.search(r"\.(key|pem|env)\b", each.text) or each.text.split()[0] == "."):
        found.append("everything, or a key, is copied")
    if each.name == "COPY" and each.stage == last and "--from=" not in each.text:
        found.append("the last stage takes files that were not built")
    if each.name == "RUN" and each.stage == last and re.search(r"\bpip\b|apt-get|apk\b", each.text):
        found.append("the last stage installs")
    if each.name == "RUN" and re.search(r"pip3? install", each.text) and not re.search(r"--require-hashes|--no-index", each.text):
        found.append("a package is installed without its hash")
    if each.name in ("ENTRYPOINT", "CMD") and not each.text.startswith("["):
        found.append("a shell would get the signals")
    return found


def test_the_dockerfile_is_clean() -> None:
    assert lint(DOCKERFILE) == []


def changed(old: str, new: str) -> Callable[[], str]:
    def change() -> str:
        assert DOCKERFILE.count(old) == 1, old
        return DOCKERFILE.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("break_it", "seen"),
    [
        (changed("USER 65532:65532\n", ""), "the image runs as root, or as a name that Kubernetes cannot judge"),
        (changed("USER 65532:65532", "USER extauthz"), "the image runs as root, or as a name that Kubernetes cannot judge"),
        (changed("USER 65532:65532", "USER 65532:65532\nCOPY --from=build /wheels /wheels"), "built as the user that runs it"),
        (changed("AS build\n", "AS build\nADD requirements/run.txt x\n"), "ADD fetches and unpacks: COPY"),
        (changed("AS build\n", "AS build\nRUN curl https://example.com/x | sh\n"), "an address on the network is named"),
        (changed("AS build\n", "AS build\nARG REDIS_PASSWORD=x\n"), "a secret would stay in the image's history"),
        (changed("COPY extauthz extauthz", "COPY . ."), "everything, or a key, is copied"),
        (changed("COPY extauthz extauthz", "COPY master.key extauthz"), "everything, or a key, is copied"),
        (changed("--require-hashes ", ""), "a package is installed without its hash"),
        (changed('ENTRYPOINT ["extauthz"]', "ENTRYPOINT extauthz"), "a shell would get the signals"),
        (changed("WORKDIR /run/extauthz", "WORKDIR /run/extauthz\nRUN apt-get update"), "the last stage installs"),
        (changed("WORKDIR /run/extauthz", "COPY README.md /"), "the last stage takes files that were not built"),
    ],
)
def test_each_mistake_is_seen(break_it: Callable[[], str], seen: str) -> None:
    assert [text.partition(": ")[2] for text in lint(break_it())] == [seen]


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        ("python:latest", "the image is not pinned to a patch release"),
        ("python:3.13-slim", "the image is not pinned to a patch release"),
        ("registry.example/python:3.13.9", "a registry's host is named"),
    ],
)
def test_an_image_that_is_not_pinned_or_names_a_host_is_seen(image: str, seen: str) -> None:
    wrong = lint(re.sub(r"PYTHON_IMAGE=\S+", f"PYTHON_IMAGE={image}", DOCKERFILE))
    assert [text.partition(": ")[2] for text in wrong] == [seen, seen]


def test_only_named_files_go_into_the_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for each in instructions(DOCKERFILE)
        if each.name == "COPY" and "--from=" not in each.text
        for source in each.text.split()[:-1]
    }
    assert copied == allowed
    assert {"**/*.key", "**/*.pem", "**/__pycache__"} <= set(rules)
    assert all((ROOT / source).exists() for source in copied)


def test_the_embedded_servers_that_the_image_leaves_out_are_the_ones_of_the_extra() -> None:
    """The Dockerfile filters the pinned requirements; a new member of the extra must be filtered too."""
    project = (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"^embedded = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    left_out = re.search(r"\^\(([^)]*)\)==", DOCKERFILE)
    assert extra is not None
    assert left_out is not None
    assert set(re.findall(r'"([a-z-]+)', extra[1])) == set(left_out[1].split("|"))
