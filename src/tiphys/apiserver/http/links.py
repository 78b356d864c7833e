"""Links of a proxied page, changed so that they lead through the proxy again.

A page a pod serves at `/` is seen at `/api/v1/namespaces/d/pods/p/proxy/`. What it links to by an absolute path, or by
the address the request named as its host, gets that prefix; relative links, fragments and other hosts are left alone.
Only start tags with such a link change, byte by byte everything else passes as it came.
https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/
"""

from __future__ import annotations

import html
import posixpath
import re
import zlib
from typing import Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

# Attributes that hold one URL, by element. https://html.spec.whatwg.org/multipage/indices.html#attributes-3, with
# those of HTML 4: https://www.w3.org/TR/html4/index/attributes.html
LINKS: Final[dict[str, frozenset[str]]] = {
    element: frozenset(attributes.split())
    for element, attributes in {
        "a": "href",
        "applet": "codebase",
        "area": "href",
        "audio": "src",
        "base": "href",
        "blockquote": "cite",
        "body": "background",
        "button": "formaction",
        "command": "icon",
        "del": "cite",
        "embed": "src",
        "form": "action",
        "frame": "longdesc src",
        "head": "profile",
        "html": "manifest",
        "iframe": "longdesc src",
        "img": "longdesc src usemap",
        "input": "formaction src usemap",
        "ins": "cite",
        "link": "href",
        "object": "classid codebase data usemap",
        "q": "cite",
        "script": "src",
        "source": "src",
        "video": "poster src",
    }.items()
}
# Elements whose content is text up to their end tag.
_RAW: Final = frozenset({"script", "style", "textarea", "title", "xmp", "noembed", "noframes"})
_COMMENT: Final = re.compile(rb"<!--.*?-->", re.DOTALL)
_TAG: Final = re.compile(rb"""<([a-zA-Z][^\s/>]*)((?:"[^"]*"|'[^']*'|[^"'>])*)>""")
_ATTRIBUTE: Final = re.compile(rb"""([^\s"'<>/=]+)(\s*=\s*)("[^"]*"|'[^']*'|[^\s"'>]+)""")
# A tag, comment or script that is longer is passed on as it is.
MAX_PENDING: Final = 1 << 20
_PATH: Final = "/%:@!$&'()*+,;=~-._"


class Rewriter(Protocol):
    """Changes a body on its way."""

    def feed(self, data: bytes) -> bytes:
        """What can be sent on after `data` arrived."""

    def close(self) -> bytes:
        """The rest."""


class Links:
    """Rewrites single links: `prefix` is where the proxy is reached, without "/" at its end; `host` what was asked."""

    def __init__(self, prefix: str, host: str) -> None:
        self._prefix = prefix
        self._host = host

    def rewrite(self, link: str) -> str:
        """The link through the proxy, or the link itself."""
        try:
            parts = urlsplit(link)
        except ValueError:
            return link
        is_own = parts.netloc == self._host if parts.netloc else not parts.scheme
        if not is_own or not parts.path.startswith("/") or parts.path.startswith(self._prefix):
            return link
        # `//` and `..` go, as they cannot lead out of the proxy's prefix; a "/" at the end stays.
        path = posixpath.normpath("/" + parts.path.lstrip("/"))
        path = self._prefix + path + ("/" if parts.path.endswith("/") and path != "/" else "")
        return urlunsplit(parts._replace(path=quote(path, safe=_PATH, errors="surrogateescape")))


class Page:
    """Rewrites the links of an HTML page, in whatever pieces it comes (a `Rewriter`)."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._pending = b""
        self._raw = b""  # the element whose text is passed on

    def feed(self, data: bytes) -> bytes:
        """As Rewriter."""
        done, self._pending = self._take(self._pending + data)
        if len(self._pending) > MAX_PENDING:
            done, self._pending = done + self._pending, b""
        return done

    def close(self) -> bytes:
        """As Rewriter."""
        rest, self._pending = self._pending, b""
        return rest

    def _take(self, text: bytes) -> tuple[bytes, bytes]:
        """What is complete, rewritten, and what is not."""
        done: list[bytes] = []
        at = 0
        while True:
            start = text.find(b"<", at)
            if start < 0:
                return b"".join(done) + text[at:], b""
            done.append(text[at:start])
            end = self._markup(text, start, done)
            if end < 0:
                return b"".join(done), text[start:]
            at = end

    def _markup(self, text: bytes, start: int, done: list[bytes]) -> int:
        """Take the markup that begins at `start`; where it ends, or -1 when that is not there yet."""
        if self._raw:
            end = b"</" + self._raw
            found = text[start : start + len(end)].lower()
            if len(found) < len(end) and end.startswith(found):
                return -1
            if found == end:
                self._raw = b""
        elif b"<!--".startswith(text[start : start + 4]):
            comment = _COMMENT.match(text, start)
            if comment is None:
                return -1
            done.append(comment[0])
            return comment.end()
        elif text[start + 1 : start + 2].isalpha():
            tag = _TAG.match(text, start)
            if tag is None:
                return -1
            done.append(self._tag(tag))
            return tag.end()
        done.append(b"<")
        return start + 1

    def _tag(self, tag: re.Match[bytes]) -> bytes:
        name = tag[1].lower()
        if name.decode("latin-1") in _RAW and not tag[2].endswith(b"/"):
            self._raw = name
        wanted = LINKS.get(name.decode("latin-1"))
        if wanted is None:
            return tag[0]

        def attribute(found: re.Match[bytes]) -> bytes:
            if found[1].lower().decode("latin-1") not in wanted:
                return found[0]
            value = found[3]
            if value[:1] in (b'"', b"'"):
                value = value[1:-1]
            # Bytes that are no UTF-8 survive as they are.
            link = html.unescape(value.decode(errors="surrogateescape"))
            rewritten = self._links.rewrite(link)
            if rewritten == link:
                return found[0]
            return found[1] + found[2] + b'"' + html.escape(rewritten).encode(errors="surrogateescape") + b'"'

        return b"<" + tag[1] + _ATTRIBUTE.sub(attribute, tag[2]) + b">"


class Compressed:
    """A rewriter between decompression and compression (a `Rewriter`)."""

    def __init__(self, inner: Rewriter, window_bits: int) -> None:
        """`window_bits` says the format, as zlib does: 31 is gzip, 15 zlib, which HTTP calls deflate."""
        self._inner = inner
        self._out = zlib.compressobj(wbits=window_bits)
        self._in = zlib.decompressobj(wbits=window_bits)

    def feed(self, data: bytes) -> bytes:
        """As Rewriter; raises zlib.error for what is not in the format."""
        return self._out.compress(self._inner.feed(self._in.decompress(data)))

    def close(self) -> bytes:
        """As Rewriter."""
        text = self._inner.feed(self._in.flush()) + self._inner.close()
        return self._out.compress(text) + self._out.flush()


def rewriter(links: Links, content_type: str, encoding: str) -> Rewriter | None:
    """What rewrites a body of this Content-Type and Content-Encoding; None when it is to be passed on as it is."""
    if content_type.partition(";")[0].strip().lower() != "text/html":
        return None
    match encoding.strip().lower():
        case "" | "identity":
            return Page(links)
        case "gzip" | "x-gzip":
            return Compressed(Page(links), 31)
        case "deflate":
            return Compressed(Page(links), 15)
        case _:
            return None
