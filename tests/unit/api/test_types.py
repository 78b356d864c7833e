"""The generated types and the table of resources."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.shared_data import DATA, needs_shared
from tiphys.api.apps.v1 import Deployment
from tiphys.api.codec import decode_object, encode_object, from_dict, to_dict
from tiphys.api.coordination.v1 import Lease, LeaseSpec
from tiphys.api.core.v1 import (
    ConfigMap,
    Container,
    Node,
    NodeCondition,
    NodeStatus,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    Secret,
)
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.schemas import schema_of
from tiphys.api.table import (
    ALL_RESOURCES,
    GROUPS,
    RESOURCES,
    Resource,
    list_type_of,
    resource_by_kind,
    resource_by_path,
    resource_of,
    type_of,
)
from tiphys.machinery.codec import decode_json
from tiphys.machinery.normalize import normalize

NOW = datetime(2024, 1, 1, 0, 0, 0, 500000, UTC)
ROOT = Path(__file__).parents[3]


def test_committed_files_are_fresh() -> None:
    check = [sys.executable, str(ROOT / "tools" / "generate_api.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("resource", ALL_RESOURCES, ids=lambda r: f"{r.plural}.{r.version}.{r.group}")
def test_every_resource_has_its_types_and_schema(resource: Resource) -> None:
    cls = type_of(resource)
    assert resource_of(cls) is resource
    assert resource_by_path(resource.group, resource.version, resource.plural) is resource
    assert resource_by_kind(resource.group, resource.version, resource.kind) is resource
    obj = decode_object(cls, b'{"metadata":{"name":"x","namespace":"y"},"unknown":{}}')
    assert to_dict(obj) == {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": "x", "namespace": "y"},
    }
    if "list" in resource.verbs:
        listed = decode_object(list_type_of(resource), b'{"items":null,"metadata":{"resourceVersion":"5"}}')
        assert getattr(listed, "items") == ()  # noqa: B009  (every list type has items)
    assert "metadata" in schema_of(resource.group, resource.version, resource.kind).fields


def test_groups_and_versions_come_in_discoverys_order() -> None:
    assert [g.name for g in GROUPS[:3]] == ["", "apiregistration.k8s.io", "apps"]
    assert not any(r.alpha for r in RESOURCES)
    pods = resource_by_path("", "v1", "pods")
    assert pods is not None
    assert pods.subresources["eviction"] == ("Eviction", ("create",), "policy", "v1")
    assert pods.path("default", "p", "log") == "/api/v1/namespaces/default/pods/p/log"


@pytest.mark.parametrize(
    ("cls", "field", "json_name"),
    [
        (PodStatus, "pod_ips", "podIPs"),
        (PodSpec, "host_pid", "hostPID"),
        (PodSpec, "set_hostname_as_fqdn", "setHostnameAsFQDN"),
        (PodIP, "ip", "ip"),
        (Container, "working_dir", "workingDir"),
        (EndpointSlice, "address_type", "addressType"),
    ],
)
def test_names(cls: type[msgspec.Struct], field: str, json_name: str) -> None:
    assert {f.name: f.encode_name for f in msgspec.structs.fields(cls)}[field] == json_name


def test_times_have_the_precision_of_their_field() -> None:
    lease = Lease(metadata=ObjectMeta(creation_timestamp=NOW), spec=LeaseSpec(renew_time=NOW.replace(microsecond=0)))
    assert encode_object(lease) == (
        b'{"apiVersion":"coordination.k8s.io/v1","kind":"Lease",'
        b'"metadata":{"creationTimestamp":"2024-01-01T00:00:00Z"},"spec":{"renewTime":"2024-01-01T00:00:00.000000Z"}}'
    )
    node = Node(status=NodeStatus(conditions=(NodeCondition(type="Ready", last_heartbeat_time=NOW),)))
    assert b'"lastHeartbeatTime":"2024-01-01T00:00:00Z"' in encode_object(node)


def test_null_is_read_as_empty() -> None:
    pod = decode_object(
        Pod,
        b'{"spec":{"containers":null,"nodeSelector":null},"status":{"conditions":[{"type":"a","lastProbeTime":null}]}}',
    )
    assert pod.spec.containers == ()
    assert pod.status.conditions[0].last_probe_time is None


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_object(Deployment, b'{"spec":{"replicas":"x"}}')


def test_bytes_are_base64() -> None:
    secret = decode_object(Secret, b'{"data":{"a":"aGk="}}')
    assert secret.data == {"a": b"hi"}
    assert to_dict(secret)["data"] == {"a": "aGk="}


def test_objects_are_frozen() -> None:
    config = from_dict(ConfigMap, {"metadata": {"name": "c"}})
    with pytest.raises(AttributeError):
        config.metadata = ObjectMeta()  # type: ignore[misc]  # what this test is about
    changed = msgspec.structs.replace(config, data={"a": "b"})
    assert (config.data, changed.data) == ({}, {"a": "b"})


def kinds_of_roundtrip() -> list[tuple[Path, Resource]]:
    found = []
    for path in sorted((DATA / "roundtrip").glob("*.json")):
        group_version, _, kind = path.stem.rpartition(".")
        group, _, version = group_version.rpartition(".")
        resource = resource_by_kind("" if group == "core" else group, version, kind)
        if resource is not None:
            found.append((path, resource))
    return found


@needs_shared
@pytest.mark.parametrize(("path", "resource"), kinds_of_roundtrip(), ids=lambda value: getattr(value, "stem", ""))
def test_types_carry_every_field(path: Path, resource: Resource) -> None:
    obj = decode_json(path.read_bytes())
    cls = type_of(resource)
    there = to_dict(decode_object(cls, path.read_bytes()))
    if resource.kind == "PodDisruptionBudget":
        # Filled with a null time, which no server writes.
        del obj["status"]["disruptedPods"]
    assert normalize(there, schema_of(resource.group, resource.version, resource.kind)) == obj


def test_importing_the_largest_module_is_quick() -> None:
    script = "import sys, tiphys.api.core.v1; print(sorted(m for m in sys.modules if m.startswith('tiphys.api.')))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    # The import pulls in nothing but what its types refer to.
    assert out.strip() == str(
        [
            "tiphys.api.base",
            "tiphys.api.core",
            "tiphys.api.core.v1",
            "tiphys.api.meta",
            "tiphys.api.meta.v1",
            "tiphys.api.names",
        ]
    )
