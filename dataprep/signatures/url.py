"""The normal form of a URL: two URLs with the same one count as the same page, and hardly ever are two.

By RFC 3986, sections 6.2.2 and 6.2.3, neither the case of scheme and host counts, nor a default port, nor an empty
path. Beyond that, what crawls differ in does not count: http or https, a leading `www.`, the fragment (but for `#!`,
which names a page of its own), a slash at the end, and parameters that only track the visitor. The case of the path and
the order of other parameters do count, since servers may tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from cluster.contracts.hashing import blake2b_128

_TRACKING = re.compile(r"(?:utm_\w+|fbclid|gclid|dclid|msclkid|mc_cid|mc_eid|igshid|yclid|_ga)(?:=|$)", re.IGNORECASE)
_DEFAULT_PORTS = (":80", ":443")


def normal_url(url: str) -> str:
    """`host/path?query` in normal form. A URL that can't be parsed stays as it is, but for white space at its ends."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    host = parts.netloc.rpartition("@")[2].lower()
    for port in _DEFAULT_PORTS:
        host = host.removesuffix(port)
    query = "&".join(p for p in parts.query.split("&") if p and not _TRACKING.match(p))
    page = "#" + parts.fragment if parts.fragment.startswith("!") else ""
    return host.removeprefix("www.") + parts.path.rstrip("/") + ("?" + query if query else "") + page


def site(url: str) -> str:
    """The host of a URL, as in its normal form; "" for a URL that has none or can't be parsed."""
    try:
        urlsplit(url.strip())
    except ValueError:
        return ""
    return re.split("[/?#]", normal_url(url), maxsplit=1)[0]


def url_hashes(
    urls: Sequence[str | None],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """(high [D], low [D], known [D]): a 128-bit BLAKE2b hash of each normal form in halves; whether there is a URL."""
    known = np.array([bool(url and url.strip()) for url in urls], bool)
    return *blake2b_128(normal_url(url or "").encode("utf-8", "surrogatepass") for url in urls), known
