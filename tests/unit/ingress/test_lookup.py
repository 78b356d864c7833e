"""Tables of hosts and paths against a plain reading of the rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tiphys.ingress.haproxy.lookup import tables_of
from tiphys.ingress.model import Action, Field, Host, Match, PathType, Route

PATHS = st.lists(st.sampled_from(["a", "b", "aa"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
MATCHES = st.builds(
    Match,
    path_type=st.sampled_from([PathType.EXACT, PathType.PREFIX]),
    path=st.builds(lambda path, slash: path + slash, PATHS, st.sampled_from(["", "/"])).map(
        lambda path: path.replace("//", "/")
    ),
    headers=st.sampled_from([(), (Field("x", "1"),)]),
)


def holds(match: Match, path: str, has_header: bool) -> bool:
    """The documented meaning, element by element."""
    if match.headers and not has_header:
        return False
    if match.path_type is PathType.EXACT:
        return path == match.path
    wanted = [part for part in match.path.split("/") if part]
    return path.rstrip("/").split("/")[1 : 1 + len(wanted)] == wanted


def looked_up(host: Host, path: str, has_header: bool) -> Route | None:
    """What the proxy does with the tables."""
    tables = tables_of(host)
    candidates = tables.exact.get(path)
    if candidates is None:
        fitting = [prefix for prefix in tables.prefixes if (path + "/").startswith(prefix)]
        candidates = tables.prefixes[max(fitting, key=len)] if fitting else ()
    return next((each for each in candidates if has_header or not each.match.headers), None)


@given(st.lists(MATCHES, min_size=1, max_size=6), PATHS, st.booleans())
def test_the_best_route_that_holds_is_found(matches: list[Match], path: str, has_header: bool) -> None:
    routes = tuple(Route(match, Action(), rank=(f"{number:03}",)) for number, match in enumerate(matches))
    found = looked_up(Host("h", routes), path, has_header)
    holding = [each for each in routes if holds(each.match, path, has_header)]
    if not holding:
        assert found is None
        return
    best = min(
        holding,
        key=lambda each: (
            each.match.path_type is not PathType.EXACT,
            -len(each.match.path if each.match.path_type is PathType.EXACT else each.match.element_path),
            -len(each.match.headers),
            each.rank,
        ),
    )
    assert found == best


def test_a_tier_comes_before_everything() -> None:
    wide = Route(Match(PathType.EXACT, "/a"), Action(status=1), tier=1)
    narrow = Route(Match(PathType.PREFIX, "/"), Action(status=2), tier=0)
    assert tables_of(Host("h", (wide, narrow))).exact["/a"] == (narrow,)
