from __future__ import annotations

import gzip
import zlib

import pytest

from tiphys.apiserver.http.links import Links, Page, rewriter

P = "/api/v1/namespaces/d/pods/p:80/proxy"
LINKS = Links(P, "1.2.3.4:6443")


@pytest.mark.parametrize(
    ("link", "through"),
    [
        ("/x.js", f"{P}/x.js"),
        ("/", f"{P}/"),
        ("/dir/", f"{P}/dir/"),
        ("/a//b/../c", f"{P}/a/c"),
        ("/../../out", f"{P}/out"),
        ("/a b?x=1&y=2#k", f"{P}/a%20b?x=1&y=2#k"),
        ("http://1.2.3.4:6443/same/", f"http://1.2.3.4:6443{P}/same/"),
        ("//1.2.3.4:6443/same", f"//1.2.3.4:6443{P}/same"),
        ("http://other.example/x", None),
        ("rel/x?y=1#z", None),
        ("../up", None),
        ("#fragment", None),
        ("?q=1", None),
        ("", None),
        ("mailto:a@b.c", None),
        ("javascript:go('/x')", None),
        ("http://[bad/x", None),
        (f"{P}/already", None),
    ],
)
def test_absolute_paths_lead_through_the_proxy(link: str, through: str | None) -> None:
    assert LINKS.rewrite(link) == (link if through is None else through)


@pytest.mark.parametrize(
    ("page", "changed"),
    [
        pytest.param('<a href="/up">u</a>', f'<a href="{P}/up">u</a>', id="link"),
        pytest.param("<A HREF = /up>u</A>", f'<A HREF = "{P}/up">u</A>', id="unquoted, upper case"),
        pytest.param("<img alt='/no' src='/i'/>", f"<img alt='/no' src=\"{P}/i\"/>", id="only attributes with URLs"),
        pytest.param('<video poster="/v" src="/w">', f'<video poster="{P}/v" src="{P}/w">', id="two of them"),
        pytest.param('<a href="/a?b&amp;c" data-href="/d">', f'<a href="{P}/a?b&amp;c" data-href="/d">', id="escapes"),
        pytest.param('<a title=">" href="/x">', f'<a title=">" href="{P}/x">', id="quoted ends"),
        pytest.param('<!-- <a href="/c"> -->', None, id="comment"),
        pytest.param("""<script>var a='<a href="/n">';</script>""", None, id="script"),
        pytest.param('<textarea><a href="/n"></textarea>', None, id="text area"),
        pytest.param('<custom href="/n"> 1 < 2 <', None, id="other elements and lone brackets"),
        pytest.param('<style>a</b</style><a href="/x">', f'<style>a</b</style><a href="{P}/x">', id="after raw text"),
        pytest.param("<!DOCTYPE html>\r\n<p class=k checked>&eacute; \xe9 &nbsp;</p>", None, id="all else is kept"),
        pytest.param('<a href="/\xe9">', f'<a href="{P}/%E9">', id="bytes that are no UTF-8"),
    ],
)
def test_pages_change_only_in_their_links(page: str, changed: str | None) -> None:
    given, wanted = page.encode("latin-1"), (page if changed is None else changed).encode("latin-1")
    for size in (1, 2, 3, 7, len(given)):  # in whatever pieces it comes
        rewriting = Page(LINKS)
        pieces = [rewriting.feed(given[at : at + size]) for at in range(0, len(given), size)]
        assert b"".join(pieces) + rewriting.close() == wanted


def test_unfinished_tags_are_not_kept_for_ever() -> None:
    page = Page(LINKS)
    begun = b"<a href='" + b"x" * (1 << 20)
    assert page.feed(begun) == begun


def test_compressed_pages_are_rewritten_too() -> None:
    page = b'<a href="/x">' * 100
    wanted = page.replace(b"/x", P.encode() + b"/x")
    zipping = rewriter(LINKS, "text/html; charset=utf-8", "gzip")
    assert zipping is not None
    assert gzip.decompress(zipping.feed(gzip.compress(page)) + zipping.close()) == wanted
    deflating = rewriter(LINKS, "Text/HTML", "deflate")
    assert deflating is not None
    assert zlib.decompress(deflating.feed(zlib.compress(page)) + deflating.close()) == wanted


@pytest.mark.parametrize(("kind", "encoding"), [("text/plain", ""), ("", ""), ("text/html", "br")])
def test_what_is_not_understood_passes(kind: str, encoding: str) -> None:
    assert rewriter(LINKS, kind, encoding) is None
