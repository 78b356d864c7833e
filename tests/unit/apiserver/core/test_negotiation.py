from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.negotiation import JSON, PARTIAL, PROTOBUF, TABLE, YAML, Wanted, negotiate
from tiphys.machinery.errors import StatusError

ACCEPTED = {
    "": Wanted(),
    "*/*": Wanted(),
    JSON: Wanted(),
    "text/html,application/json": Wanted(),
    "application/json;q=0.5,*/*": Wanted(),
    YAML: Wanted(YAML),
    f"{PROTOBUF}, application/json": Wanted(PROTOBUF),
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json": Wanted(JSON, TABLE),
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io": Wanted(JSON, TABLE, "v1beta1"),
    "application/yaml;as=Table;v=v1;g=meta.k8s.io": Wanted(YAML, TABLE),
    f"{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1": Wanted(PROTOBUF, PARTIAL),
    "application/json;as=Nothing;v=v1;g=meta.k8s.io,application/yaml": Wanted(YAML),
    "application/json;pretty=1": Wanted(pretty=True),
    "application/json;stream=watch": Wanted(),
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_the_first_clause_that_can_be_served_wins(accept: str) -> None:
    assert negotiate(accept) == ACCEPTED[accept]


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ("application/xml", "406: Not Acceptable"),
        ("application/*", "406: Not Acceptable"),
        ("application/json;as=Foo;v=v1;g=meta.k8s.io", "only the following media types are accepted"),
        ("application/json;as=Table;v=v2;g=meta.k8s.io", "only the following media types are accepted"),
    ],
)
def test_what_nobody_can_serve_is_refused(accept: str, message: str) -> None:
    with pytest.raises(StatusError, match=message) as caught:
        negotiate(accept)
    assert caught.value.code == 406


def test_what_has_no_columns_is_no_table() -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    assert negotiate(f"{table},application/json", tables=False) == Wanted()
    with pytest.raises(StatusError, match="only the following media types are accepted"):
        negotiate(table, tables=False)
