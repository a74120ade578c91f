"""Where providers are, and that no address can mean two things or carry a credential in the clear."""

import pytest

from extauthz.gateway.load import parse
from tests.gateway.configs import changed, problems_of

ADDRESSES = {
    "https://api.openai.com": ("api.openai.com", 443, True, ""),
    "https://API.openai.com/": ("api.openai.com", 443, True, ""),
    "https://h.example:8443/v1/openai/": ("h.example", 8443, True, "/v1/openai"),
    "http://127.0.0.1:9001": ("127.0.0.1", 9001, False, ""),
    "http://provider-a": ("provider-a", 80, False, ""),
    "http://a.b.svc.cluster.local:8000": ("a.b.svc.cluster.local", 8000, False, ""),
    "http://[::1]:9001/base": ("::1", 9001, False, "/base"),
    "http://10.1.2.3": ("10.1.2.3", 80, False, ""),
}

NO_ADDRESSES = (
    "api.openai.com", "https://", "https:///v1", "ftp://a.example", "https://a.example:", "https://a.example:65536", "https://a.example:-1",
    "https://a.example:443:443", "https://u@a.example", "https://u:p@a.example", "https://a.example?x", "https://a.example#x",
    "https://a.example//b", "https://a.example/b//", "https://a.example/%2e", "https://a.example/;x", "https://a..example", "https://-a.example",
    "https://a_b.example", "https://127.1", "https://0x7f.1", "https://10.0.0.256", "https://1.2.3.4.5", "https://2130706433",
    "https://[::1", "https://[::zz]", "https://::1", "https://[::1%25lo]", "https://a.example b", "HTTPS://a.example", "https://b\u00e9.example",
    # With a credential and without TLS, to what may be the internet.
    "http://api.openai.com", "http://8.8.8.8", "http://[2001:4860:4860::8888]", "http://0.0.0.0", "http://[::]",
)  # fmt: skip


@pytest.mark.parametrize(("address", "expected"), ADDRESSES.items(), ids=ADDRESSES)
def test_address_is_host_port_tls_and_base_path(address: str, expected: tuple[str, int, bool, str]) -> None:
    provider = parse(changed(("https://api.openai.com", f'"{address}"')), "f").providers["openai"]
    assert (provider.host, provider.port, provider.tls, provider.base_path) == expected


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_address_that_is_wrong_or_unsafe_is_refused(address: str) -> None:
    assert [problem.line for problem in problems_of(changed(("https://api.openai.com", f'"{address}"')))] == [3]


def test_secret_in_an_address_is_in_no_message() -> None:
    for address in ("https://user:hunter2@api.openai.com", "https://api.openai.com?key=hunter2", "https://hunter2@"):
        assert "hunter2" not in str(problems_of(changed(("https://api.openai.com", address))))


def test_header_name_is_taken_in_lower_case() -> None:
    provider = parse(changed(("{header: api-key}", "{header: Api-Key}")), "f").providers["azure"]
    assert (provider.credential_header, provider.credential_format) == ("api-key", "{}")
