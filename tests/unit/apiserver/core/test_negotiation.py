from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.negotiation import (
    AS_IT_IS,
    JSON,
    NO_COLUMNS,
    PARTIAL,
    PROTOBUF,
    TABLE,
    YAML,
    Wanted,
    check_offered,
    negotiate,
)
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
    "*/*,application/yaml": Wanted(YAML),
    "*/*;q=1,application/yaml;q=0.9": Wanted(YAML),
    "application/json;q=0.1,application/yaml;q=0.9": Wanted(YAML),
    "application/json; as = Table ; v=v1;g=meta.k8s.io": Wanted(JSON, TABLE),
    f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json": Wanted(),
}


@pytest.mark.parametrize("accept", ACCEPTED)
def test_the_first_clause_that_can_be_served_wins(accept: str) -> None:
    assert negotiate(accept) == ACCEPTED[accept]


@pytest.mark.parametrize(
    "accept",
    [
        "application/json;as=Foo;v=v1;g=meta.k8s.io",
        "application/json;as=Table;v=v2;g=meta.k8s.io",
        "application/json;as=Table;g=meta.k8s.io",
        "application/json;v=v1",
        "application/json;stream=other",
        "application/yaml;stream=watch",
        f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io",
        "application/cbor",
    ],
)
def test_what_nobody_can_serve_is_refused(accept: str) -> None:
    with pytest.raises(StatusError, match="only the following media types are accepted") as caught:
        negotiate(accept)
    assert caught.value.code == 406


@pytest.mark.parametrize("accept", ["application/xml", "application/*", "APPLICATION/JSON", "*", ","])
def test_a_path_answers_with_the_media_types_it_lists(accept: str) -> None:
    with pytest.raises(
        StatusError, match="406: Not Acceptable\n\nAvailable representations: application/json, "
    ) as caught:
        check_offered(accept)
    assert caught.value.code == 406
    for fine in ("", "*/*", "text/html, application/yaml;q=0.1", "application/json;as=Foo"):
        check_offered(fine)


def test_what_has_no_columns_is_no_table() -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    assert negotiate(f"{table},application/json", transforms=NO_COLUMNS) == Wanted()
    with pytest.raises(StatusError, match="only the following media types are accepted"):
        negotiate(table, transforms=NO_COLUMNS)


def test_a_refusal_is_no_table() -> None:
    table = "application/yaml;as=Table;v=v1;g=meta.k8s.io"
    assert negotiate(f"{table},{PROTOBUF}", transforms=AS_IT_IS) == Wanted(PROTOBUF)


def test_custom_resources_have_no_protobuf() -> None:
    assert negotiate(f"{PROTOBUF},application/json", media_types=(JSON, YAML)) == Wanted()
    with pytest.raises(StatusError, match=r"accepted: application/json, application/yaml$"):
        negotiate(PROTOBUF, media_types=(JSON, YAML))
