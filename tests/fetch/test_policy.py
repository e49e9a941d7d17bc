"""What may be fetched: a table of URLs, properties of the address check, paths under roots, opt-out headers."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.provisional import urls

from pipeline.config import FetchConfig
from pipeline.errors import FetchError, InvalidRowError, RowError
from pipeline.fetch.policy import (
    REFUSED_NETWORKS,
    FilePath,
    ObjectAddress,
    Policy,
    WebAddress,
    check_address,
    local_file,
    locate,
    opted_out,
)
from pipeline.schema import Reason, Status

PUBLIC = Policy.of(FetchConfig(), None)
LOOPBACK = Policy.of(FetchConfig(allowed_networks=["127.0.0.0/8", "::1/128"]), None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", Reason.BAD_URL),
        ("image.jpg", Reason.BAD_URL),  # relative, and no base
        ("//example.com/a.jpg", Reason.BAD_URL),
        ("http://", Reason.BAD_URL),
        ("http:///a.jpg", Reason.BAD_URL),
        ("http:example.com/a.jpg", Reason.BAD_URL),
        ("http://example.com:99999/", Reason.BAD_URL),
        ("http://example.com:0/", Reason.BAD_URL),
        ("http://example.com:x/", Reason.BAD_URL),
        ("http://user@example.com/", Reason.BAD_URL),
        ("http://user:secret@example.com/", Reason.BAD_URL),
        ("http://@example.com/", Reason.BAD_URL),
        ("http://example.com\\@10.0.0.1/", Reason.BAD_URL),
        ("http://exa mple.com/", Reason.BAD_URL),
        ("http://example.com%2f@10.0.0.1/", Reason.BAD_URL),
        ("http://[::1/", Reason.BAD_URL),
        ("http://a\x00b/", Reason.BAD_URL),
        ("http://\ud800/", Reason.BAD_URL),
        ("s3:bucket/key", Reason.BAD_URL),
        ("s3://bucket", Reason.BAD_URL),
        ("s3://bucket/", Reason.BAD_URL),
        ("s3://host:80/key", Reason.BAD_URL),
        ("s3://a#b/key", Reason.BAD_URL),
        ("s3://a..b/key", Reason.BAD_URL),
        ("file://elsewhere/etc/passwd", Reason.BAD_URL),
        ("ftp://example.com/a.jpg", Reason.REFUSED_SCHEME),
        ("data:image/png;base64,iVBOR", Reason.REFUSED_SCHEME),
        ("javascript:alert(1)", Reason.REFUSED_SCHEME),
        ("gopher://example.com/", Reason.REFUSED_SCHEME),
        ("http://127.0.0.1/", Reason.REFUSED_ADDRESS),
        ("http://127.0.0.1:8000/a.jpg", Reason.REFUSED_ADDRESS),
        ("http://10.1.2.3/", Reason.REFUSED_ADDRESS),
        ("http://172.16.0.1/", Reason.REFUSED_ADDRESS),
        ("http://192.168.1.1/", Reason.REFUSED_ADDRESS),
        ("http://169.254.169.254/latest/meta-data/", Reason.REFUSED_ADDRESS),
        ("http://100.100.100.200/", Reason.REFUSED_ADDRESS),
        ("http://168.63.129.16/", Reason.REFUSED_ADDRESS),
        ("http://192.0.0.192/", Reason.REFUSED_ADDRESS),
        ("http://0.0.0.0/", Reason.REFUSED_ADDRESS),
        ("http://255.255.255.255/", Reason.REFUSED_ADDRESS),
        ("http://224.0.0.1/", Reason.REFUSED_ADDRESS),
        ("http://[::1]/", Reason.REFUSED_ADDRESS),
        ("http://[::]/", Reason.REFUSED_ADDRESS),
        ("http://[::ffff:127.0.0.1]/", Reason.REFUSED_ADDRESS),
        ("http://[::ffff:a9fe:a9fe]/", Reason.REFUSED_ADDRESS),
        ("http://[::127.0.0.1]/", Reason.REFUSED_ADDRESS),
        ("http://[64:ff9b::7f00:1]/", Reason.REFUSED_ADDRESS),
        ("http://[64:ff9b:1::1]/", Reason.REFUSED_ADDRESS),
        ("http://[2002:7f00:1::]/", Reason.REFUSED_ADDRESS),
        ("http://[fd00:ec2::254]/", Reason.REFUSED_ADDRESS),
        ("http://[fe80::1]/", Reason.REFUSED_ADDRESS),
        ("http://[ff02::1]/", Reason.REFUSED_ADDRESS),
        ("http://[::ffff:0:7f00:1]/", Reason.REFUSED_ADDRESS),  # SIIT
        ("http://[4000::1]/", Reason.REFUSED_ADDRESS),
        ("http://[2001:0:53aa:64c:0:0:80ff:fffe]/", Reason.REFUSED_ADDRESS),  # Teredo
        ("http://[fe80::1%25eth0]/", Reason.REFUSED_ADDRESS),
        ("http://[2606:4700::1111%25eth0]/", Reason.REFUSED_ADDRESS),
        ("http://[::ffff:8.8.8.8%251]/", Reason.REFUSED_ADDRESS),
        ("http://%31%32%37.0.0.1/", Reason.BAD_URL),
        ("http://127.0.0.1%00.example.com/", Reason.BAD_URL),
        ("http://127.0.0.1\\.example.com/", Reason.BAD_URL),
        ("http://127.0.0.1\u200b/", Reason.BAD_URL),
        ("http://\u00ad127.0.0.1/", Reason.BAD_URL),
        ("http://127\u30020\uff0e0\uff611/", Reason.REFUSED_ADDRESS),  # dots of other scripts
        ("http://0x7f\u30021/", Reason.REFUSED_ADDRESS),
        ("http://2130706433/", Reason.REFUSED_ADDRESS),
        ("http://0x7f000001/", Reason.REFUSED_ADDRESS),
        ("http://0x7F.1/", Reason.REFUSED_ADDRESS),
        ("http://017700000001/", Reason.REFUSED_ADDRESS),
        ("http://0177.0.0.01/", Reason.REFUSED_ADDRESS),
        ("http://127.1/", Reason.REFUSED_ADDRESS),
        ("http://127.0.0.1./", Reason.REFUSED_ADDRESS),
        ("http://0/", Reason.REFUSED_ADDRESS),
        ("http://１２７.0.0.1/", Reason.REFUSED_ADDRESS),
        ("http://①②⑦.0.0.1/", Reason.REFUSED_ADDRESS),
    ],
)
def test_urls_that_are_refused(url: str, reason: Reason) -> None:
    with pytest.raises(RowError) as caught:
        locate(url, PUBLIC)
    assert caught.value.reason == reason
    assert caught.value.status == (Status.INVALID_ROW if reason == Reason.BAD_URL else Status.FAILED_TO_DOWNLOAD)


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("http://example.com/a.jpg", "http://example.com/a.jpg"),
        ("  https://example.com  ", "https://example.com"),
        ("HTTPS://Example.com:8443/A.JPG", "https://Example.com:8443/A.JPG"),
        (
            "https://example.com/%7Euser/a%20b.jpg?sig=a%2Bb%3D&x=1,2",
            "https://example.com/%7Euser/a%20b.jpg?sig=a%2Bb%3D&x=1,2",
        ),
        ("https://example.com/ü b.jpg", "https://example.com/%C3%BC%20b.jpg"),
        ("https://example.com/100%.jpg", "https://example.com/100%25.jpg"),
        ("https://münchen.de/a.jpg", "https://xn--mnchen-3ya.de/a.jpg"),
        ("https://my_bucket.example.com/a.jpg", "https://my_bucket.example.com/a.jpg"),
        ("http://8.8.8.8/a.jpg", "http://8.8.8.8/a.jpg"),
        ("http://[2606:4700::1111]/a.jpg", "http://[2606:4700::1111]/a.jpg"),
        ("http://[64:ff9b::808:808]/a.jpg", "http://[64:ff9b::808:808]/a.jpg"),
        ("http://[::ffff:8.8.8.8]/a.jpg", "http://[::ffff:8.8.8.8]/a.jpg"),
        ("http://3dprinting.com/", "http://3dprinting.com/"),
        ("http://0x.org/", "http://0x.org/"),
    ],
)
def test_urls_that_are_fetched(url: str, requested: str) -> None:
    address = locate(url, PUBLIC)
    assert isinstance(address, WebAddress)
    assert str(address.url) == requested


@pytest.mark.parametrize(
    ("base", "url", "address"),
    [
        (None, "s3://bucket/a b?c#d%20.jpg", ObjectAddress("s3", "bucket", "a b?c#d%20.jpg")),
        (None, "GS://bucket/key", ObjectAddress("gs", "bucket", "key")),
        (None, "gcs://bucket/key", ObjectAddress("gs", "bucket", "key")),
        (None, "s3a://bucket/key", ObjectAddress("s3", "bucket", "key")),
        (None, "az://container/key", ObjectAddress("az", "container", "key")),
        (None, "/data/a.jpg", FilePath("/data/a.jpg")),
        (None, "file:///data/a%20b.jpg", FilePath("/data/a b.jpg")),
        (None, "file://localhost/data/a.jpg", FilePath("/data/a.jpg")),
        ("/data", "images/a.jpg", FilePath("/data/images/a.jpg")),
        ("/data", "../a.jpg", FilePath("/data/../a.jpg")),
        ("/data", "12:30 100%.jpg", FilePath("/data/12:30 100%.jpg")),
        ("file:///data", "a.jpg", FilePath("/data/a.jpg")),
        ("s3://bucket/manifests", "images/a.jpg", ObjectAddress("s3", "bucket", "manifests/images/a.jpg")),
        ("s3://bucket/manifests", "../images/a.jpg", ObjectAddress("s3", "bucket", "images/a.jpg")),
        ("s3://bucket", "a.jpg", ObjectAddress("s3", "bucket", "a.jpg")),
        ("s3://bucket/x", "gs://other/a.jpg", ObjectAddress("gs", "other", "a.jpg")),
    ],
)
def test_where_other_urls_point(base: str | None, url: str, address: object) -> None:
    assert locate(url, Policy.of(FetchConfig(), base)) == address


@pytest.mark.parametrize(
    "url", ["s3://bucket/key", "S3A://bucket/key", "gcs://bucket/key", "file:///a.jpg", "http://example.com/"]
)
def test_a_scheme_that_is_left_out(url: str) -> None:
    policy = Policy.of(FetchConfig(schemes=["https"]), "s3://manifests/today")
    with pytest.raises(FetchError) as caught:
        locate(url, policy)
    assert caught.value.reason == Reason.REFUSED_SCHEME
    assert isinstance(locate("https://example.com/", policy), WebAddress)
    assert locate("a.jpg", policy) == ObjectAddress("s3", "manifests", "today/a.jpg"), "beside the manifest"


def test_a_relative_path_on_the_web() -> None:
    address = locate("images/a.jpg", Policy.of(FetchConfig(), "https://example.com/set"))
    assert isinstance(address, WebAddress)
    assert str(address.url) == "https://example.com/set/images/a.jpg"


def test_a_relative_key_cannot_leave_its_bucket() -> None:
    with pytest.raises(FetchError, match=Reason.REFUSED_PATH):
        locate("../../a.jpg", Policy.of(FetchConfig(), "s3://bucket/folder"))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/"]
)
def test_an_allowed_network_is_allowed_in_all_its_forms(url: str) -> None:
    assert isinstance(locate(url, LOOPBACK), WebAddress)


def test_allowing_one_network_allows_no_other() -> None:
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://2130706433/"):
        with pytest.raises(FetchError, match=Reason.REFUSED_ADDRESS):
            locate(url, LOOPBACK)


@given(st.text() | urls() | st.from_regex(r"\A(https?|s3|file)://[^ ]{0,40}", fullmatch=False))
def test_any_text_is_located_or_refused(url: str) -> None:
    try:
        address = locate(url, PUBLIC)
    except RowError:
        return
    if isinstance(address, WebAddress):
        assert address.url.scheme in ("http", "https")
        assert address.url.raw_user is None


addresses = st.ip_addresses() | st.sampled_from(REFUSED_NETWORKS).flatmap(lambda network: st.ip_addresses(network=network))


@given(addresses)
def test_only_public_addresses_pass(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    try:
        check_address(address, ())
    except FetchError:
        return
    assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
    assert not address.is_multicast
    assert not any(address in network for network in REFUSED_NETWORKS)


@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    def passes(candidate: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        try:
            check_address(candidate, ())
        except FetchError:
            return False
        return True

    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert passes(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address))) == passes(address)


@given(st.ip_addresses(v=4).map(int), st.sampled_from([str, hex, "0{:o}".format, lambda n: f"{n >> 24}.{n & 0xFFFFFF}"]))
def test_no_unusual_spelling_of_an_address_passes(number: int, spell: object) -> None:
    assert callable(spell)
    with pytest.raises(FetchError, match=Reason.REFUSED_ADDRESS):
        locate(f"http://{spell(number)}/", PUBLIC)


# What looks like a digit or a dot to IDNA: of other widths, circled, raised, bold.
_DIGITS = {
    digit: [digit, *(chr(base + int(digit)) for base in (0xFF10, 0x1D7CE, 0x2080)), "⓪①②③④⑤⑥⑦⑧⑨"[int(digit)]]
    for digit in "0123456789"
}
_DOTS = {".": [".", "\u3002", "\uff0e", "\uff61"]}


@given(st.ip_addresses(v=4).map(str), st.data())
def test_no_disguise_of_an_address_reaches_a_resolver(address: str, data: st.DataObject) -> None:
    """Either refused, or the plain address that the check saw: never a name that something below us takes for an address."""
    disguised = "".join(data.draw(st.sampled_from((_DIGITS | _DOTS)[character])) for character in address)
    try:
        located = locate(f"http://{disguised}/", PUBLIC)
    except RowError:
        return
    assert isinstance(located, WebAddress)
    check_address(ipaddress.ip_address(str(located.url.raw_host)), ())


@given(
    st.ip_addresses(v=6, network="fc00::/7") | st.ip_addresses(v=6, network="fe80::/10") | st.ip_addresses(v=6, network="::/8")
)
def test_no_private_ipv6_address_passes_in_a_url(address: ipaddress.IPv6Address) -> None:
    for spelling in (address.compressed, address.exploded, address.exploded.upper()):
        try:
            located = locate(f"http://[{spelling}]/", PUBLIC)
        except FetchError:
            continue
        assert isinstance(located, WebAddress)
        assert (address.ipv4_mapped or ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)).is_global


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """`inside` is the root; links in it lead in and out."""
    inside, outside = tmp_path / "inside", tmp_path / "inside-not"
    inside.mkdir()
    outside.mkdir()
    for folder in (inside, outside):
        (folder / "a.jpg").write_bytes(b"x")
    (inside / "in").symlink_to(inside / "a.jpg")
    (inside / "out").symlink_to(outside / "a.jpg")
    (inside / "folder-out").symlink_to(outside)
    (tmp_path / "link-to-inside").symlink_to(inside)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["inside/a.jpg", "inside/in", "inside/../inside/a.jpg", "link-to-inside/a.jpg", "inside/not-there"]
)
def test_paths_under_a_root(roots: Path, path: str) -> None:
    for root in ("inside", "link-to-inside"):
        policy = Policy.of(FetchConfig(file_roots=[str(roots / root)]), None)
        assert local_file(str(roots / path), policy) == os.path.realpath(roots / path)


@pytest.mark.parametrize(
    "path", ["inside-not/a.jpg", "inside/out", "inside/folder-out/a.jpg", "inside/../inside-not/a.jpg", ".", "/"]
)
def test_paths_outside_the_roots(roots: Path, path: str) -> None:
    with pytest.raises(FetchError, match=Reason.REFUSED_PATH):
        local_file(str(roots / path), Policy.of(FetchConfig(), str(roots / "inside")))


def test_without_roots_no_file_may_be_read() -> None:
    with pytest.raises(FetchError, match=Reason.REFUSED_PATH):
        local_file("/etc/hostname", PUBLIC)


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        ([], False),
        (["all"], False),
        (["nofollow, nosnippet"], False),
        (["noai"], True),
        (["NoImageAI"], True),
        (["nofollow, noindex"], True),
        (["nofollow", "noimageindex"], True),
        (["otherbot: noai"], False),
        (["otherbot: noai, noindex"], False),
        (["capsieve: noai"], True),
        (["CapSieve: nofollow, noindex"], True),
        (["*: noai"], True),
        (["otherbot: nofollow, capsieve: noindex"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], True),
        (["max-snippet: 5, noai"], True),
        (["noaim"], False),
        ([":"], False),
        ([""], False),
    ],
)
def test_opt_outs(tags: list[str], refused: bool) -> None:
    assert opted_out(tags, "capsieve/0.1 (+https://example.com)") is refused


def test_a_malformed_url_is_the_rows_fault() -> None:
    with pytest.raises(InvalidRowError):
        locate("http://", PUBLIC)
