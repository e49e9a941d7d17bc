"""What may be fetched: schemes, addresses, paths, opt-outs. Pure functions, no sockets; only `local_file` touches a disk.

`locate` sorts a row's URL into where it points; `check_address` judges an IP address. The client calls the one for every URL
and every hop of a redirect, the other for every address it is about to connect to. Knows nothing of how bytes are read.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from yarl import URL

from pipeline.config import SCHEMES, FetchConfig
from pipeline.errors import FetchError, InvalidRowError
from pipeline.schema import Reason

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries, and addresses that clouds answer on without saying so in any registry. Our own table, since
# `is_global` changes with the Python version; `check_address` asks for both.
REFUSED_NETWORKS: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared; Alibaba's metadata, 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform services
        "169.254.0.0/16",  # link-local; metadata of AWS, GCP, Azure
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata, 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/96",  # unspecified, loopback, IPv4-compatible
        "64:ff9b:1::/48",  # NAT64 of a site's own
        "100::/64",  # discard
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # private; AWS's metadata, fd00:ec2::254
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network(
    "2000::/3"
)  # all that IANA has given out; ::ffff:0:a.b.c.d (SIIT) and others lie outside

# img2dataset's list (`--disallowed_header_directives`).
OPT_OUT_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
# Characters that may stand in a URL as they are, and whole percent escapes.
_CLEAN_URL = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_LOOKS_NUMERIC = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]*))*")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,253}[a-z0-9]")
STORE_SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az"}  # and what we call them


class WebAddress(NamedTuple):
    """An http(s) URL whose host, if literal, passed the policy; names are judged once resolved."""

    url: URL


class ObjectAddress(NamedTuple):
    """An object of a store."""

    scheme: str  # s3, gs, az
    bucket: str
    key: str


class FilePath(NamedTuple):
    """A local path, not yet held against the roots."""

    path: str


Address = WebAddress | ObjectAddress | FilePath


@dataclass(frozen=True)
class Policy:
    """The settings that decide, parsed: networks allowed besides the public ones, and real paths of the roots."""

    allowed_networks: tuple[IPNetwork, ...]
    file_roots: tuple[str, ...]
    base: str | None = None
    """Folder, local or URL, that relative paths start from."""
    schemes: frozenset[str] = frozenset(SCHEMES)
    """What URLs may begin with, s3a and gcs by their usual names."""

    @staticmethod
    def of(config: FetchConfig, base: str | None) -> Policy:
        """The policy of a configuration; a local `base` becomes a root."""
        if base is not None and base.startswith("file:"):
            base = _file_url_path(base)
        local = [base] if base is not None and not _SCHEME.match(base) else []
        return Policy(
            allowed_networks=tuple(ipaddress.ip_network(network) for network in config.allowed_networks),
            file_roots=tuple(os.path.realpath(root) for root in (*config.file_roots, *local)),
            base=base,
            schemes=frozenset(config.schemes),
        )


# Where a URL points


def locate(url: str, policy: Policy) -> Address:
    """Where `url` (or path, taken relative to the policy's base) points. Nothing is resolved or opened.

    Raises InvalidRowError for what is not a URL, FetchError for what may not be fetched.
    """
    url = url.strip()
    if not url or "\x00" in url or not _is_text(url):
        raise InvalidRowError(Reason.BAD_URL)
    match = _SCHEME.match(url)
    if match is None:
        return _relative(url, policy)
    scheme = match[1].lower()
    if STORE_SCHEMES.get(scheme, scheme) not in policy.schemes:
        raise FetchError(Reason.REFUSED_SCHEME)
    if scheme in STORE_SCHEMES:
        return _object_address(STORE_SCHEMES[scheme], url[match.end() :])
    return FilePath(_file_url_path(url)) if scheme == "file" else WebAddress(web_url(url, policy))


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, which neither hosts nor file systems take
        return False
    return True


def _relative(path: str, policy: Policy) -> Address:
    if path.startswith("//"):  # a URL without its scheme, as in HTML
        raise InvalidRowError(Reason.BAD_URL)
    if path.startswith("/"):
        return FilePath(path)
    if policy.base is None:
        raise InvalidRowError(Reason.BAD_URL)
    scheme, separator, rest = policy.base.partition("://")
    if not separator:
        return FilePath(str(Path(policy.base, path)))
    if scheme in ("http", "https"):
        return WebAddress(web_url(f"{policy.base.rstrip('/')}/{path}", policy))
    if scheme not in STORE_SCHEMES:
        raise FetchError(Reason.REFUSED_SCHEME)
    bucket, _, prefix = rest.partition("/")
    key = posixpath.normpath(posixpath.join(prefix, path))
    if key.startswith(".."):
        raise FetchError(Reason.REFUSED_PATH)
    return _object_address(STORE_SCHEMES[scheme], f"//{bucket}/{key}")


def _object_address(scheme: str, rest: str) -> ObjectAddress:
    """Of `//bucket/key`. The key is taken as it stands: in object stores `%`, `?` and `#` are characters like any other."""
    bucket, _, key = rest.removeprefix("//").partition("/")
    # A bucket may become part of a host's name, so it must not hold anything that ends or changes one.
    if not rest.startswith("//") or not _BUCKET.fullmatch(bucket) or ".." in bucket or not key:
        raise InvalidRowError(Reason.BAD_URL)
    return ObjectAddress(scheme, bucket, key)


def _file_url_path(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidRowError(Reason.BAD_URL) from error
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\x00" in path:
        raise InvalidRowError(Reason.BAD_URL)
    return path


# The web


def web_url(text: str, policy: Policy) -> URL:
    """`text` as the very URL object that is requested: what is checked and what is fetched cannot be parsed differently.

    Raises InvalidRowError for malformed ones and those with a user or password in them, FetchError for literal addresses that
    the policy refuses, and for numeric ones not in the usual notation (127.1, 0x7f000001, 017700000001), wherever they point.
    """
    try:
        # Requoting would change signatures in URLs that need none.
        url = URL(text, encoded=_CLEAN_URL.fullmatch(text) is not None)
        host, port, user = url.raw_host, url.port, url.raw_user or url.raw_password
    except (ValueError, TypeError) as error:
        raise InvalidRowError(Reason.BAD_URL) from error
    if not host or not port or user is not None or "@" in url.raw_authority:
        raise InvalidRowError(Reason.BAD_URL)
    check_host(host, policy)
    return url


def redirect_url(current: URL, location: str, policy: Policy) -> URL:
    """The next hop, checked like the first; raises FetchError (a bad Location is the server's mistake, not the row's)."""
    try:
        clean = _CLEAN_URL.fullmatch(location) is not None
        target = current.join(URL(location.strip(), encoded=clean)).with_fragment(None)
    except (ValueError, TypeError) as error:
        raise FetchError(Reason.BAD_RESPONSE) from error
    if target.scheme not in ("http", "https"):
        raise FetchError(Reason.REFUSED_SCHEME)
    try:
        return web_url(str(target), policy)
    except InvalidRowError as error:
        raise FetchError(Reason.BAD_RESPONSE) from error


def check_host(host: str, policy: Policy) -> None:
    """Judge a URL's host as far as it can be without resolving it."""
    if _LOOKS_NUMERIC.fullmatch(host):
        try:
            literal: IPAddress = ipaddress.IPv4Address(host)
        except ValueError as error:
            raise FetchError(Reason.REFUSED_ADDRESS) from error
        check_address(literal, policy.allowed_networks)
    elif ":" in host:
        if "%" in host:  # a zone means something on one machine only
            raise FetchError(Reason.REFUSED_ADDRESS)
        try:
            literal = ipaddress.IPv6Address(host)
        except ValueError as error:
            raise InvalidRowError(Reason.BAD_URL) from error
        check_address(literal, policy.allowed_networks)
    elif not _HOST.fullmatch(host) or len(host) > 253:
        raise InvalidRowError(Reason.BAD_URL)


def check_address(address: IPAddress, allowed_networks: Iterable[IPNetwork]) -> None:
    """Raise FetchError unless the address is public or in an allowed network, also as the IPv4 address it stands for."""
    faces = (address, embedded_ipv4(address))
    candidates = [face for face in faces if face is not None]
    if any(face in network for network in allowed_networks for face in candidates if face.version == network.version):
        return
    judged = candidates[-1]
    if not judged.is_global or judged.is_multicast or any(judged in network for network in REFUSED_NETWORKS):
        raise FetchError(Reason.REFUSED_ADDRESS)
    if isinstance(judged, ipaddress.IPv6Address) and judged not in _GLOBAL_UNICAST:
        raise FetchError(Reason.REFUSED_ADDRESS)


def embedded_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to a mapped (::ffff:0:0/96) or NAT64 (64:ff9b::/96) one end at."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped


# Local files


def local_file(path: str, policy: Policy) -> str:
    """The real path of `path`, symbolic links resolved, if it lies under a root; raises FetchError."""
    real = os.path.realpath(path)
    if any(os.path.commonpath((root, real)) == root for root in policy.file_roots):
        return real
    raise FetchError(Reason.REFUSED_PATH)


# Opt-outs


def opted_out(robots_tags: Iterable[str], user_agent: str) -> bool:
    """Whether X-Robots-Tag headers forbid this use, to everybody or to us: `noai`, `noindex, nofollow`, `capsieve: noai`."""
    ours = user_agent.partition("/")[0].strip().lower()
    for tag in robots_tags:
        addressed = True
        for directive in tag.lower().split(","):
            name, colon, rest = directive.partition(":")
            if colon and name.strip() not in _DIRECTIVES_WITH_VALUES:
                addressed = name.strip() in (ours, "*")
                directive = rest
            if addressed and directive.strip() in OPT_OUT_DIRECTIVES:
                return True
    return False
