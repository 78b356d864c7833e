"""HAProxy itself judges the configuration, whatever users wrote into their objects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from tiphys.ingress.haproxy.config import Settings, configuration
from tiphys.ingress.haproxy.words import UnsafeTextError, word
from tiphys.ingress.model import (
    Action,
    Comparison,
    Field,
    HeaderChange,
    Host,
    Listener,
    Match,
    Options,
    PathRewrite,
    PathType,
    Redirect,
    Rewriting,
    Route,
    ServicePort,
    Site,
    Target,
)

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
LETTERS = "ab%'\"\\ $#{}[]()|;,&<>~!*?^ü:@=-/.`"


def site_of(text: str) -> Site:
    """A site with the text wherever a user's text can be."""
    to = (Target(ServicePort("ns", "svc", 80)),)
    header = (HeaderChange("set", "X-A", text), HeaderChange("add", "X-B", text), HeaderChange("remove", "X-C"))
    routes = [
        Route(Match(PathType.PREFIX, "/" + text), Action(targets=to, request_headers=header, response_headers=header)),
        Route(Match(PathType.EXACT, "/e" + text), Action(redirect=Redirect(301, location="https://x/" + text))),
        Route(
            Match(PathType.PREFIX, "/h", headers=(Field("x", text),), query=(Field(text, text),)), Action(targets=to)
        ),
        Route(
            Match(PathType.PREFIX, "/w"), Action(targets=to, host=text, path=PathRewrite(Rewriting.WHOLE, "/" + text))
        ),
        Route(
            Match(PathType.PREFIX, "/" + text),
            Action(redirect=Redirect(path=PathRewrite(Rewriting.PREFIX, "/n" + text, "/" + text), host="h" + text)),
        ),
        Route(
            Match(PathType.PREFIX, "/o"), Action(targets=to, options=Options(1, 2, 3, 4, "GRPC", ("10.0.0.0/8",), "C"))
        ),
        Route(
            Match(PathType.REGEX, "/rx(.*)"),
            Action(targets=to, path=PathRewrite(Rewriting.CAPTURED, f"/$1{text}", "/rx(.*)")),
        ),
        Route(
            Match(PathType.PREFIX, "/c", headers=(Field("x", "a.*b", Comparison.REGEX),)), Action(failing=1, targets=to)
        ),
    ]
    return Site((Listener(18080, hosts=(Host("a.example", tuple(routes)), Host("*.b.example", ()), Host("", ()))),))


@pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy on this machine")
def test_no_text_breaks_the_configuration(tmp_path: Path) -> None:
    rng = Random(7)
    texts = ["", *LETTERS, *("".join(rng.choice(LETTERS) for _ in range(12)) for _ in range(10))]
    settings = Settings(tmp_path, "127.0.0.1:18081")
    refused = []
    for text in texts:
        made = configuration(site_of(text), settings, lambda _: [("10.0.0.1", 80), ("fd00::1", 80)], {})
        for name, data in made.files.items():
            (tmp_path / name).write_bytes(data)
        done = subprocess.run([str(HAPROXY), "-c", "-f", str(settings.main_file)], capture_output=True, text=True)
        if done.returncode:
            refused.append((text, [line for line in done.stderr.splitlines() if "ALERT" in line][:2]))
    assert not refused, "\n".join(f"{text!r}: {lines}" for text, lines in refused)


def test_control_characters_are_refused() -> None:
    with pytest.raises(UnsafeTextError):
        word("a\nglobal")


def test_a_generation_changes_with_routes_and_not_with_endpoints(tmp_path: Path) -> None:
    site, settings = site_of("x"), Settings(tmp_path)
    first = configuration(site, settings, lambda _: [("10.0.0.1", 80)], {})
    moved = configuration(site, settings, lambda _: [("10.0.0.2", 80)], first.slots)
    grown = configuration(site, settings, lambda _: [(f"10.0.0.{n}", 80) for n in range(9)], moved.slots)
    other = configuration(site_of("y"), settings, lambda _: [("10.0.0.1", 80)], {})
    assert first.generation == moved.generation
    assert len({first.generation, grown.generation, other.generation}) == 3
