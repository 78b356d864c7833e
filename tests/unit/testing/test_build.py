"""Objects for tests are what the types say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import ConfigMap, Namespace, Node, Pod, Service
from tiphys.testing import build


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (build.namespace("n"), Namespace),
        (build.pod(nodeName="n1"), Pod),
        (build.deployment(replicas=3), Deployment),
        (build.service(), Service),
        (build.config_map(key="value"), ConfigMap),
        (build.node(), Node),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_an_object_has_its_type(made: dict[str, Any], kind: Any) -> None:
    typed = msgspec.convert(made, kind)
    assert typed.metadata.name == made["metadata"]["name"]
    assert (made["apiVersion"], made["kind"]) == (kind.API_VERSION, kind.KIND)


def test_fields_of_a_pods_spec_are_named() -> None:
    assert build.pod(nodeName="n1")["spec"]["nodeName"] == "n1"
