"""Each rule of envoy-check against a bad and a good file that differ in what the rule asks.

A bad file says where its mistake is: `# finding: …` stands on that line and is the finding's text. A first line of `# options: …`
holds the command's options.
"""

import difflib
import json
import random
import re
import subprocess
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from demo.envoy_server import EnvoyServer, binary
from demo.processes import free_port
from extauthz.envoy_config.check import Finding, check, check_text
from extauthz.envoy_config.document import parse
from extauthz.envoy_config.render import render
from extauthz.envoy_config.rules import RULES
from extauthz.envoy_config.rules.rule import Options, Rule
from extauthz.errors import BadConfig, Problem
from extauthz.gateway.load import load
from extauthz.settings import parse_listen, worker_listens

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "configs" / "envoy"
STEMS = sorted(path.stem for path in (FILES / "bad").glob("*.yaml"))
RULE_OF = {rule.id: rule for rule in RULES}
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
ADMIN = "  address:\n    socket_address:\n      address: 127.0.0.1\n      port_value: {}"
#: The good and the bad file of a rule may differ by so many lines: a filter that is wrong by being there.
DIFFERENT_LINES_MAX = 22


def rule_of(stem: str) -> Rule:
    return RULE_OF[stem.partition(".")[0]]


def options_of(path: Path) -> Options:
    first = path.read_text().partition("\n")[0]
    version = re.search(r"--envoy-version (\S+)", first)
    body = re.search(r"--body-bytes-max (\d+)", first)
    return Options(version[1] if version else "", int(body[1]) if body else None)


def expected(path: Path) -> list[Finding]:
    """What the markers of a file say that it should find."""
    rule = rule_of(path.stem)
    lines = enumerate(path.read_text().splitlines(), 1)
    return [
        Finding(str(path), number, rule.id, line.partition("  # finding: ")[2], rule.why, rule.instead)
        for number, line in lines
        if "  # finding: " in line
    ]


@pytest.mark.prove(6)
def test_every_rule_finds_its_mistake_and_nothing_else() -> None:
    seen = 0
    for stem in STEMS:
        bad, good = FILES / "bad" / f"{stem}.yaml", FILES / "good" / f"{stem}.yaml"
        wanted = expected(bad)
        assert len(wanted) == 1, bad
        assert check(bad, options_of(bad)) == wanted
        assert check(good, options_of(good)) == [], good
        seen += 2
    print(f"{len(RULES)} rules, {seen} files")
    assert {rule_of(stem).id for stem in STEMS} == {rule.id for rule in RULES}
    assert len(RULES) == 30
    assert seen >= 60


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_that_is_switched_off_lets_its_bad_files_pass(rule: Rule) -> None:
    """So each bad file is found by its own rule; with the test above, a rule that stops working is seen."""
    others = [each for each in RULES if each is not rule]
    mine = [FILES / "bad" / f"{stem}.yaml" for stem in STEMS if rule_of(stem) is rule]
    assert mine
    assert [check(path, options_of(path), others) for path in mine] == [[] for _ in mine]
    dead = replace(rule, check=lambda configuration, options: iter(()))
    assert all(check(path, options_of(path), [dead]) != expected(path) for path in mine)


@pytest.mark.parametrize("stem", STEMS)
def test_the_good_file_differs_only_in_what_the_rule_asks(stem: str) -> None:
    bad, good = ((FILES / kind / f"{stem}.yaml").read_text() for kind in ("bad", "good"))
    changed = [
        line
        for line in difflib.unified_diff(good.splitlines(), bad.splitlines(), lineterm="", n=0)
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    assert 0 < len(changed) <= DIFFERENT_LINES_MAX
    assert "# finding" not in good


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", ["good", "bad"])
def test_envoy_takes_the_files(kind: str, part: int, tmp_path: Path) -> None:
    """What we call safe and unsafe are real configurations: it is not that Envoy would refuse them anyway."""
    roots = tmp_path / "roots.pem"
    trustme.CA().cert_pem.write_to_path(str(roots))
    for path in sorted((FILES / kind).glob("*.yaml"))[part::4]:
        if path.stem.endswith("agentgateway"):
            continue
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace(SYSTEM_ROOTS, str(roots)))
        ran = subprocess.run([str(binary()), "--mode", "validate", "-c", str(copy)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{path.name}: {ran.stderr[-600:]}"


@pytest.mark.parametrize(
    ("listen", "workers"),
    [(("unix:/run/extauthz/extauthz.sock",), None), (("127.0.0.1:9000", "unix:/run/extauthz/extauthz.sock"), 3)],
)
def test_what_extauthz_renders_has_no_findings(listen: tuple[str, ...], workers: int | None) -> None:
    gateway = load(ROOT / "envoy" / "gateway.yaml")
    listens = [own for mine in worker_listens([parse_listen(text) for text in listen], workers) for own in mine]
    options = Options("1.40.0", gateway.listener.body_bytes_max)
    assert check_text(render(gateway, listens), "envoy.yaml", options) == []


def test_the_manual_has_every_rule_with_its_reason_and_remedy() -> None:
    rows = [line for line in (ROOT / "docs" / "envoy-check.md").read_text().splitlines() if re.match(r"\| \d\d-", line)]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [(name, why, instead) for name, _, why, instead in cells] == [(rule.id, rule.why, rule.instead) for rule in RULES]


@pytest.mark.prove(6)
def test_no_shape_of_a_configuration_makes_the_check_fail(proving: bool) -> None:
    """Any part replaced by any other kind of value: findings or a refusal, never a traceback. Envoy judges types, we only look."""
    seed = 20261121
    chance = random.Random(seed)
    whole = yaml.safe_load((FILES / "good" / "15-logged-namespaces.filter-state.yaml").read_text())
    for _ in range(5_000 if proving else 150):
        broken = deepcopy(whole)
        holder: Any = broken
        while True:
            key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.85:
                holder = holder[key]
                continue
            holder[key] = chance.choice([None, True, 0, -7, 1.5, "", "x", [], {}, [[]], [None], {"value": {}}, {"@type": "x"}])
            break
        text = yaml.safe_dump(broken)
        try:
            check_text(text, "x", Options("1.40.0", 1))
        except BadConfig:
            continue
        except Exception as error:  # noqa: BLE001 (whatever it is, show the document)
            pytest.fail(f"{error!r}, seed {seed}\n{text}")


def test_json_and_camel_case_are_read_alike() -> None:
    text = (FILES / "bad" / "01-failure-mode-allow.yaml").read_text()

    def camel(value: object) -> object:
        if isinstance(value, dict):
            return {re.sub(r"_([a-z])", lambda found: found[1].upper(), key): camel(inner) for key, inner in value.items()}
        return [camel(inner) for inner in value] if isinstance(value, list) else value

    plain = yaml.safe_load(text)
    for document in (plain, camel(plain)):
        written = json.dumps(document, indent="\t")
        line = next(number for number, part in enumerate(written.splitlines(), 1) if "ailure" in part and "llow" in part)
        found = check_text(written, "envoy.json")
        assert [(each.line, each.rule) for each in found] == [(line, "01-failure-mode-allow")]


def test_every_listener_is_checked_and_managers_without_us_are_left_alone() -> None:
    one = yaml.safe_load((FILES / "good" / "01-failure-mode-allow.yaml").read_text())
    listener = one["static_resources"]["listeners"][0]
    foreign, second = deepcopy(listener), deepcopy(listener)
    manager = foreign["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if "ext_authz" not in each["name"]]
    manager["use_remote_address"] = False
    second["filter_chains"][0]["filters"][0]["typed_config"]["use_remote_address"] = False
    one["static_resources"]["listeners"] += [foreign, second]
    text = yaml.safe_dump(one, sort_keys=False)
    last = [number for number, line in enumerate(text.splitlines(), 1) if "use_remote_address: false" in line][-1]
    assert [(each.line, each.rule) for each in check_text(text, "envoy.yaml")] == [(last, "09-remote-address")]


def test_what_is_shared_with_a_manager_without_us_is_checked() -> None:
    """An alias stands for the same lines in both; leaving them out in one must not leave them out in the other."""
    one = yaml.safe_load((FILES / "good" / "14-logged-credentials.yaml").read_text())
    listener = one["static_resources"]["listeners"][0]
    foreign = deepcopy(listener)
    manager, other = (each["filter_chains"][0]["filters"][0]["typed_config"] for each in (listener, foreign))
    other["http_filters"] = [each for each in other["http_filters"] if "ext_authz" not in each["name"]]
    manager["access_log"][0]["typed_config"]["log_format"] = {"json_format": {"who": "%REQ(COOKIE)%"}}
    other["access_log"] = manager["access_log"]
    one["static_resources"]["listeners"] = [foreign, listener]
    text = yaml.safe_dump(one, sort_keys=False)
    assert "*id001" in text
    line = next(number for number, part in enumerate(text.splitlines(), 1) if "COOKIE" in part)
    assert [(each.line, each.rule) for each in check_text(text, "envoy.yaml")] == [(line, "14-logged-credentials")]


def test_a_listener_delivered_as_a_resource_and_a_typed_struct_are_checked() -> None:
    one = yaml.safe_load((FILES / "bad" / "18-retries-of-the-check.yaml").read_text())
    listener = one["static_resources"]["listeners"][0]
    for each in listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]:
        if "ext_authz" in each["name"]:
            kind = each["typed_config"].pop("@type")
            wrapped = {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": kind, "value": each["typed_config"]}
            each["typed_config"] = wrapped
    delivered = {"resources": [{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **listener}]}
    found = check_text(yaml.safe_dump(delivered), "lds.yaml")
    assert [each.rule for each in found] == ["18-retries-of-the-check"]


@pytest.mark.parametrize("stem", ["07-path-normalisation", "14-logged-credentials", "18-retries-of-the-check"])
def test_what_a_running_envoy_says_of_itself_is_checked(stem: str, tmp_path: Path) -> None:
    """`/config_dump` holds everything twice, as it was written and as it is in force; each rule is found, and no other."""
    for kind, wanted in (("bad", {stem}), ("good", set())):
        text = (FILES / kind / f"{stem}.yaml").read_text()
        roots = tmp_path / "roots.pem"
        trustme.CA().cert_pem.write_to_path(str(roots))
        admin, port = free_port(), free_port()
        for old, new in (
            (SYSTEM_ROOTS, str(roots)),
            ("  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}", ADMIN.format(admin)),
            ("0.0.0.0, port_value: 8443", f"127.0.0.1, port_value: {port}"),
            ("address: api.openai.com", "address: 127.0.0.1"),
        ):
            assert old in text
            text = text.replace(old, new)
        envoy = EnvoyServer(tmp_path / kind, text)
        try:
            status, dump = envoy.admin("/config_dump")
        finally:
            envoy.stop()
        assert status == 200
        assert {each.rule for each in check_text(dump, "dump.json")} == wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", Problem("x", 1, "the document is not a mapping", "an Envoy bootstrap, or a list of `resources`")),
        ("a: [\n", Problem("x", 2, "not YAML: did not find expected node content")),
        ("a: {b: c}", Problem("x", 0, "nothing here uses extauthz", "a file with an ext_authz filter that has a grpc_service")),
        ("a: &a\n  b: *a\n", Problem("x", 1, "the document holds itself, or aliases nest it too deeply", "120 levels")),
        ("\n" + "[" * 1_000_000, Problem("x", 2, "the document is nested too deeply", "120 levels")),
        ("? " * 100_000, Problem("x", 1, "the document is nested too deeply", "120 levels")),
        ("a: b\n---\nc: d\n", Problem("x", 2, "not YAML: but found another document")),
        ("a: \x00", Problem("x", 0, "not YAML", "a file that Envoy reads")),
    ],
    ids=["empty", "broken", "another", "endless", "deep", "deep keys", "two documents", "NUL"],
)
def test_a_file_that_says_nothing_about_us_is_refused_and_not_called_safe(text: str, problem: Problem) -> None:
    with pytest.raises(BadConfig) as refused:
        check_text(text, "x")
    assert refused.value.problems == (problem,)


def test_aliases_that_multiply_end_in_an_error_and_not_in_all_of_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(BadConfig, match="too large"):
        check_text("\n".join(lines), "x")


def test_an_unreadable_file_is_one_clear_problem(tmp_path: Path) -> None:
    missing = tmp_path / "envoy.yaml"
    with pytest.raises(BadConfig, match="cannot be read: No such file or directory"):
        check(missing)
    missing.write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadConfig, match="not UTF-8"):
        check(missing)


def test_a_part_knows_envoys_ways_to_write_a_value() -> None:
    document = parse("a: {value: yes}\nb: off\nc: 0660\nd: 0x10\ne: 1.5s\nf: null\ng: [1]\ng: [2, 3]\n", "x")
    values = [document.get("a").is_true, document.get("b").is_false, document.get("c").number, document.get("d").number]
    assert values == [True, True, 0o660, 16]
    assert [document.get("e").seconds, bool(document.get("f")), [part.text for part in document.get("g").items()]] == [
        1.5,
        False,
        ["2", "3"],
    ]
    assert (document.get("a", "nothing", "there").line, bool(document.get("nothing"))) == (1, False)
