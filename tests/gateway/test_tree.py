"""YAML that is hostile, ambiguous or broken never becomes a tree, and reading it costs little."""

import time

import pytest

from extauthz.errors import BadConfig, Problem
from extauthz.gateway.tree import NODES_MAX, Entries, Items, Node, Text, is_null, read_tree


def tree(text: str | bytes) -> tuple[Node, list[Problem]]:
    problems: list[Problem] = []
    return read_tree(text if isinstance(text, bytes) else text.encode(), "f", problems), problems


def refused(text: str | bytes) -> str:
    with pytest.raises(BadConfig) as caught:
        tree(text)
    return str(caught.value)


def test_every_value_keeps_its_line_and_its_text() -> None:
    root, problems = tree('a: 010\nb:\n  - "5"\n  - ~\n')
    assert problems == []
    assert root == Entries(
        1, {"a": (1, Text(1, "010", quoted=False)), "b": (2, Items(3, [Text(3, "5", quoted=True), Text(4, "~", quoted=False)]))}
    )


def test_byte_order_mark_is_no_part_of_the_first_key() -> None:
    root, _ = tree(b"\xef\xbb\xbfa: 1\n")
    assert isinstance(root, Entries)
    assert list(root.entries) == ["a"]


@pytest.mark.parametrize("word", ["y", "N", "yes", "No", "ON", "off", "true", "False"])
def test_words_that_yaml_reads_as_booleans_are_a_problem_without_quotes(word: str) -> None:
    for text in (f"{word}: 1\n", f"a: {word}\n", f"a: [b, {word}]\n"):
        assert len(tree(text)[1]) == 1, text
    assert tree(f'a: ["{word}"]\n')[1] == []


def test_key_that_stands_twice_is_a_problem_and_the_first_stays() -> None:
    root, problems = tree("a: 1\nb: 2\na: 3\n")
    assert isinstance(root, Entries)
    assert root.entries["a"] == (1, Text(1, "1", quoted=False))
    assert problems == [Problem("f", 3, "'a' stands here again, first on line 1", "each key once")]


def test_alias_is_what_it_stands_for() -> None:
    root, problems = tree("a: &x [1]\nb: *x\n")
    assert isinstance(root, Entries)
    assert root.entries["b"] == (2, root.entries["a"][1])
    assert problems == []


def test_merge_key_is_an_ordinary_key() -> None:
    root, _ = tree("a: &x {b: 1}\nc: {<<: *x}\n")
    assert isinstance(root, Entries)
    inner = root.entries["c"][1]
    assert isinstance(inner, Entries)
    assert list(inner.entries) == ["<<"]


def test_nothing_tilde_and_null_are_null_but_quoted_they_are_text() -> None:
    root, _ = tree('[~, null, Null, "", "~", 0]\n')
    assert isinstance(root, Items)
    assert [is_null(item) for item in root.items] == [True, True, True, False, False, False]


HOSTILE = {
    "bomb of aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)),
    "aliases of one large value": "a: &a [" + "x, " * (NODES_MAX // 10) + "]\n" + "".join(f"b{i}: *a\n" for i in range(100)),
    "alias to itself": "a: &a [*a]\n",
    "alias to what is still open": "a: &a {b: {c: *a}}\n",
    "brackets": "[" * 500_000,
    "braces": "{a: " * 200_000,
    "dashes": "- " * 500_000 + "x",
    "question marks": "? " * 200_000 + "x",
    "indentation": "".join(f"{' ' * i}a:\n" for i in range(1_400)),
    "too many values": "[" + "x," * (NODES_MAX + 1) + "]",
    "tag that runs code": "a: !!python/object/apply:os.system [id]\n",
    "tag that does nothing": "a: !!str 5\n",
    "key that is a list": "? [a]\n: b\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "zero byte": "a: 1\0\n",
    "escape": "a: \x1b[2J\n",
    "not UTF-8": b"a: \xff\n",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "nothing": "",
    "a document of nothing but its mark": "%YAML 1.1\n",
    "unclosed quote": 'a: "b\n',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused_in_little_time(text: str | bytes) -> None:
    start = time.thread_time()
    message = refused(text)
    assert message.startswith("f"), message
    assert len(message) < 500, message
    assert time.thread_time() - start < 2
