"""A URL says where Redis is; what it does not say is refused, and a password in it is never repeated."""

import pytest

from extauthz.errors import BadConfig
from extauthz.redisio.url import RedisUrl
from extauthz.secret import Secret


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://localhost", RedisUrl(host="localhost", port=6379)),
        ("redis://127.0.0.1:7000/3", RedisUrl(host="127.0.0.1", port=7000, db=3)),
        ("redis://localhost/", RedisUrl(host="localhost", port=6379)),
        ("redis://[::1]:1", RedisUrl(host="::1", port=1)),
        ("redis://:p%40ss%2F@h", RedisUrl(host="h", port=6379, password=Secret(b"p@ss/"))),
        ("redis://user:p@h", RedisUrl(host="h", port=6379, username="user", password=Secret(b"p"))),
        ("rediss://h", RedisUrl(host="h", port=6379, is_tls=True)),
        (
            "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k",
            RedisUrl(host="h", port=6379, is_tls=True, ca_file="/ca", certificate_file="/c", key_file="/k"),
        ),
        ("unix:///run/redis.sock", RedisUrl(path="/run/redis.sock")),
        ("unix://:p@/run/redis.sock?db=2", RedisUrl(path="/run/redis.sock", db=2, password=Secret(b"p"))),
        (" redis://h\n", RedisUrl(host="h", port=6379)),
    ],
)
def test_url_is_read(text: str, expected: RedisUrl) -> None:
    assert RedisUrl.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "scheme"),
        ("localhost:6379", "scheme"),
        ("http://:canary@h", "scheme"),
        ("redis://:canary@", "no host"),
        ("redis://:canary@h:0", "port 0"),
        ("redis://:canary@h:99999", "not a URL"),
        ("redis://:canary@h:canary", "not a URL"),
        ("redis://:canary@[::1", "not a URL"),
        ("redis://h/canary", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/99999", "database"),
        ("redis://h/٣", "database"),
        ("redis://h?ssl_ca_certs=/canary", "unknown query parameter"),
        ("rediss://h?ssl_cert_reqs=none&password=canary", "2 unknown query parameters; allowed are ssl_ca_certs"),
        ("redis://h#canary", "percent-encode"),
        ("unix://host/canary.sock", "host in a unix URL"),
        ("unix://", "no path"),
        ("unix:///s?password=canary", "unknown query parameter"),
    ],
)
def test_bad_url_is_refused_in_words_that_quote_nothing(text: str, what: str) -> None:
    with pytest.raises(BadConfig, match=what) as caught:
        RedisUrl.parse(text, "SOURCE")
    assert caught.value.problems[0].file == "SOURCE"
    assert "canary" not in f"{caught.value}{caught.value!r}"
    assert caught.value.__suppress_context__


def test_url_shows_neither_user_nor_password() -> None:
    url = RedisUrl.parse("rediss://usercanary:canary@h:1/2?ssl_keyfile=/keycanary")
    assert [str(url), repr(url), url.address] == ["RedisUrl(rediss://h:1/2)"] * 2 + ["rediss://h:1/2"]
