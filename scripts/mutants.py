"""The checkers can see: each row breaks one line of the product in a copy of the tree, and the test it names must fail there.

    python scripts/mutants.py [PROMISE]     the rows of one promise or accident; `all`, or nothing, for all of them

A row is caught when its tests pass on the unbroken copy and fail on the broken one; a test that cannot even start is no catch. The
exit code is 1 when a row is missed. docs/reliability.md has the promises.
"""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
#: Rows at one time; the tests of most of them wait for servers.
AT_ONCE = 2
#: A test that has not ended by then hangs, which is no catch.
TIMEOUT_S = 240
#: pytest's exit codes: every test passed, and some failed. All others say that the tests did not run.
PASSED, FAILED = 0, 1


class Mutant(NamedTuple):
    """One break.

    Attributes:
        promise: the number of a promise, or the name of an accident.
        what: what would be wrong with the product.
        file: from the root of the tree.
        old: exactly one place of the file.
        new: what stands there instead.
        test: what must fail; pytest's words, separated by blanks.
    """

    promise: str
    what: str
    file: str
    old: str
    new: str
    test: str


NO_FAULT = "tests/faults/test_no_fault_allows.py"
THROUGH_ENVOY = "tests/end_to_end"

MUTANTS = (
    Mutant(
        "1",
        "whatever the counting script replies is taken for its answer",
        "extauthz/decision/check.py",
        "if type(reply) is not list:",
        "if False:",
        f"{NO_FAULT}::test_no_broken_reply_of_redis_allows",
    ),
    Mutant(
        "1",
        "an admission that Redis did not answer is an admission",
        "extauthz/decision/check.py",
        "            raise error\n",
        "            return [ADMITTED, -1, 0, 0]\n",
        f"{NO_FAULT}::test_no_broken_reply_of_redis_allows",
    ),
    Mutant(
        "1",
        "a reply that is no admission is one",
        "extauthz/decision/check.py",
        "            if reply[0] == ADMITTED:\n                return Allowed(",
        "            if reply[0] != DENIED:\n                return Allowed(",
        f"{NO_FAULT}::test_no_fault_in_the_decision_allows",
    ),
    Mutant(
        "2",
        "a denial has no HTTP status, which is an allow to Envoy",
        "extauthz/services/answers.py",
        "    response.status.code = refusal.http_status\n",
        "",
        "tests/services/test_check_service.py::test_bytes_without_a_whole_key_are_never_allowed",
    ),
    Mutant(
        "2",
        "a denial has no gRPC status",
        "extauthz/services/answers.py",
        "    message.status.code = _STATUS[refusal.http_status]\n",
        "",
        "tests/services/test_check_service.py::test_bytes_without_a_whole_key_are_never_allowed",
    ),
    Mutant(
        "2",
        "the reference transport sends an empty message with status OK",
        "extauthz/transport/grpcio_server.py",
        "if type(message) is not bytes or not message:",
        "if type(message) is not bytes:",
        "tests/transport/test_no_empty_answer.py",
    ),
    Mutant(
        "2",
        "the fast transport sends an empty message with status OK",
        "extauthz/transport/shell.py",
        "elif type(message) is bytes and message:",
        "elif type(message) is bytes:",
        "tests/transport/test_no_empty_answer.py",
    ),
    Mutant(
        "3",
        "the first filter leaves what a client sent under our names",
        "extauthz/envoy_config/listener.py",
        "stripped = [remove_prefix(headers.INTERNAL_PREFIX), ",
        "stripped = [",
        f"{THROUGH_ENVOY}/test_header_matrix.py",
    ),
    Mutant(
        "3",
        "an attempt keeps the credentials that the client sent",
        "extauthz/envoy_config/clusters.py",
        '[{"remove": name} for name in all_credentials if name not in kept]',
        "[]",
        f"{THROUGH_ENVOY}/test_header_matrix.py",
    ),
    Mutant(
        "4",
        "a path that two servers read differently is matched",
        "extauthz/decision/policy.py",
        "if _TWO_READINGS.search(path):",
        "if False:",
        f"{THROUGH_ENVOY}/test_path_matrix.py",
    ),
    Mutant(
        "6",
        "Envoy lets pass what the sidecar did not answer",
        "extauthz/envoy_config/listener.py",
        "failure_mode_allow=False",
        "failure_mode_allow=True",
        "tests/envoy_config/test_check.py::test_what_extauthz_renders_has_no_findings",
    ),
    Mutant(
        "6",
        "a rule of envoy-check looks at nothing",
        "extauthz/envoy_config/rules/ext_authz.py",
        'is_true:\n            yield part.line, "failure_mode_allow is true"',
        'is_true and False:\n            yield part.line, "failure_mode_allow is true"',
        "tests/envoy_config/test_check.py::test_every_rule_finds_its_mistake_and_nothing_else",
    ),
    Mutant(
        "7",
        "Envoy asks again after an answer that it lost",
        "extauthz/envoy_config/listener.py",
        '"retry_on": "connect-failure"',
        '"retry_on": "connect-failure,reset,unavailable"',
        "tests/envoy_config/test_check.py::test_what_extauthz_renders_has_no_findings",
    ),
    Mutant(
        "11",
        "a client may open streams with even numbers",
        "extauthz/transport/h2/connection.py",
        "if stream_id & 1 == 0:",
        "if stream_id & 1 == 2:",
        "tests/transport/h2/test_differential.py",
    ),
    Mutant(
        "14",
        "resets are not counted",
        "extauthz/transport/h2/control.py",
        "Bucket(limits.resets_max, limits.resets_per_s, now)",
        "Bucket(10**9, limits.resets_per_s, now)",
        "tests/transport/h2/test_attacks.py -k ends_the_connection",
    ),
    Mutant(
        "17",
        "one request more than the limit fits",
        "extauthz/limits/algorithms/fixed.lua",
        "if total <= limit then",
        "if total <= limit + 1 then",
        "tests/admission/test_race.py -k never_over",
    ),
    Mutant(
        "17",
        "a request is counted under the rules that admit it though another denies it",
        "extauthz/admission/lua/admit.lua",
        "if longest > 0 then\n",
        "if longest > 0 and #KEYS < 5 then\n",
        "tests/admission/test_race.py -k never_over",
    ),
    Mutant(
        "18",
        "a window opens again when the clock steps back",
        "extauthz/limits/algorithms/fixed.lua",
        "if not (now >= stored + window) then",
        "if now >= stored and now < stored + window then",
        "tests/admission/test_simulation.py",
    ),
    Mutant(
        "20",
        "each worker takes the whole share for itself",
        "extauthz/limits/local_share.py",
        "// (_PRECISION * sidecars)",
        "// _PRECISION",
        "tests/limits/test_local_share.py",
    ),
    Mutant(
        "21",
        "a script whose outcome is unknown is sent again",
        "extauthz/redisio/connection.py",
        'except CommandFailed as error:\n            if error.code != "NOSCRIPT":\n                raise\n        self._load',
        'except (CommandFailed, Unavailable) as error:\n            if getattr(error, "code", "NOSCRIPT") != "NOSCRIPT":\n'
        "                raise\n        self._load",
        "tests/redisio/test_link.py::test_unknown_outcome_is_never_replayed",
    ),
    Mutant(
        "22",
        "a reply is handed to the command that was sent last",
        "extauthz/redisio/pipeline.py",
        "take = self.waiting.popleft",
        "take = self.waiting.pop",
        "tests/redisio/test_link.py::test_replies_never_cross",
    ),
    Mutant(
        "25",
        "an envelope opens for another tenant",
        "extauthz/credentials/envelope.py",
        "            self.tenant_id.encode(),\n",
        "",
        "tests/credentials/test_envelope.py",
    ),
    Mutant(
        "25",
        "the fields of the context are joined without their lengths",
        "extauthz/credentials/envelope.py",
        'b"".join(len(part).to_bytes(4, "big") + part for part in parts)',
        'b"".join(parts)',
        "tests/credentials/test_envelope.py",
    ),
    Mutant(
        "26",
        "a master key seals without end",
        "extauthz/credentials/envelope.py",
        "if seal_number > kek.seals_max:",
        "if False:",
        "tests/credentials/test_envelope.py tests/credentials/stores/test_redis.py",
    ),
    Mutant(
        "26",
        "the commitment is not compared",
        "extauthz/credentials/envelope.py",
        "if not aead.is_equal(commitment, envelope.commitment):",
        "if False:",
        "tests/credentials/test_envelope.py",
    ),
    Mutant(
        "27",
        "what looks like a credential stays in a log line",
        "extauthz/telemetry/logs.py",
        "return _FORMS.sub(REDACTED, value)",
        "return value",
        "tests/telemetry/test_logs.py",
    ),
    Mutant(
        "33",
        "an admission does not look at the key's epoch",
        "extauthz/admission/lua/admit.lua",
        " or values[2] ~= ARGV[2]",
        "",
        f"{THROUGH_ENVOY}/test_revocation.py -k revoke_returned",
    ),
    Mutant(
        "33",
        "a refusal is confirmed by the tenant's epoch alone, so what was granted to a key does not act",
        "extauthz/tenants/cache.py",
        "if epochs != [tenant.epoch, key.epoch]:",
        "if epochs[0] != tenant.epoch:",
        "tests/decision/test_check.py -k acts_at_once_when_granted",
    ),
    Mutant(
        "truncated cache key",
        "identities are found by three bytes of the digest",
        "extauthz/tenants/cache.py",
        "self.cached = self._held.get",
        "self.cached = lambda digest: next((own for known, own in self._held.items() if known[:3] == digest[:3]), None)",
        "tests/faults/test_cache_key_is_whole.py -k never_share",
    ),
    Mutant(
        "read-modify-write counting",
        "what a request adds to an open window is not written back with the look at it",
        "extauthz/admission/lua/admit.lua",
        "call('SETRANGE', KEYS[i], offsets[i], values[i]) else",
        "else",
        "tests/faults/test_read_modify_write_counting.py -k exactly",
    ),
    Mutant(
        "breaker local to a process",
        "each process has a breaker of its own",
        "extauthz/keyspace.py",
        'return _key(SHARED, "breaker", provider)',
        'return _key(SHARED, "breaker", provider, str(__import__("os").getpid()))',
        "tests/faults/test_breaker_state_is_shared.py -k both_obey",
    ),
    Mutant(
        "anonymous bucket",
        "a request without a key goes on as somebody anonymous",
        "extauthz/decision/authenticate.py",
        '        raise refusals.unauthenticated("key_missing", "no header carries a key")',
        '        return b"", "anonymous"',
        "tests/faults/test_no_anonymous_bucket.py",
    ),
    Mutant(
        "anonymous bucket",
        "an allow is built before the admission's reply is looked at",
        "extauthz/decision/check.py",
        "            if reply[0] == ADMITTED:\n                return Allowed(",
        "            if reply:\n                return Allowed(",
        "tests/faults/test_no_anonymous_bucket.py",
    ),
    Mutant(
        "shared credential",
        "a tenant's credential is looked up as the platform's",
        "extauthz/decision/choose.py",
        "SecretRef(identity.tenant.tenant_id, provider, name, version)",
        'SecretRef("", provider, name, version)',
        "tests/faults/test_no_shared_credential.py -k own",
    ),
    Mutant(
        "labels from requests",
        "the method that a client sent is a label",
        "extauthz/services/check.py",
        "(name, method_label(request.method), ",
        "(name, request.method, ",
        "tests/faults/test_metric_labels_are_closed.py",
    ),
)


def copy_of_the_tree(to: Path) -> Path:
    """Every file that is in the repository, or would be added to it."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return to


def run_tests(tree: Path, test: str) -> tuple[int, str]:
    """The exit code of pytest and its output, in the tree; -1 when it did not end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # Compiled files would be told from changed ones by time and size, and a break may change neither.
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("EXTAUTHZ_PROVE", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", *test.split()],
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        output, _ = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        return -1, output
    return child.returncode, output


def broken(mutant: Mutant, tree: Path) -> None:
    """Make the break in the tree. Raises ValueError when its line is not there exactly once."""
    file = tree / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} has {text.count(mutant.old)} times {mutant.old!r}")
    file.write_text(text.replace(mutant.old, mutant.new))


def verdict(mutant: Mutant) -> tuple[str, str]:
    """`caught`, or why not, and the end of pytest's output."""
    with tempfile.TemporaryDirectory(prefix="mutant") as folder:
        tree = copy_of_the_tree(Path(folder))
        try:
            broken(mutant, tree)
        except ValueError as error:
            return f"missed: {error}", ""
        code, output = run_tests(tree, mutant.test)
    known = {FAILED: "caught", PASSED: "missed: the test passes", -1: f"missed: no end within {TIMEOUT_S} s"}
    return known.get(code, f"missed: the test did not run, pytest's exit code {code}"), output[-1500:]


def sound(tests: list[str]) -> bool:
    """Whether every test passes on an unbroken copy, without which a failure would say nothing."""
    with tempfile.TemporaryDirectory(prefix="unbroken") as folder:
        tree = copy_of_the_tree(Path(folder))
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(lambda test: run_tests(tree, test), tests))
    for test, (code, output) in zip(tests, results, strict=True):
        if code != PASSED:
            print(f"on the unbroken tree {test} does not pass (exit code {code}):\n{output[-3000:]}")
    return all(code == PASSED for code, _ in results)


def main(promise: str) -> int:
    """Print a line per row; 1 when a row is missed, 2 when a test fails without any break."""
    rows = [mutant for mutant in MUTANTS if promise in ("all", mutant.promise)]
    if not rows:
        print(f"no rows for {promise}; there are {', '.join(dict.fromkeys(mutant.promise for mutant in MUTANTS))}")
        return 2
    began = time.monotonic()
    if not sound(sorted({mutant.test for mutant in rows})):
        return 2
    missed = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, (found, output) in zip(rows, pool.map(verdict, rows), strict=True):
            print(f"{mutant.promise:>28}  {found:8}  {mutant.what}", flush=True)
            if found != "caught":
                missed += 1
                print(f"{mutant.file}: {mutant.test}\n{output}")
    print(f"{len(rows) - missed} of {len(rows)} caught in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
