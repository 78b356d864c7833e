"""Names of objects, kinds and resources."""

from __future__ import annotations

import pytest

from tiphys.machinery.meta import GroupKind, GroupResource, GroupVersionKind, ObjectName, split_api_version


@pytest.mark.parametrize(
    ("name", "text"),
    [(ObjectName("default", "web"), "default/web"), (ObjectName("", "node-1"), "node-1")],
    ids=["namespaced", "cluster"],
)
def test_object_names_are_work_queue_keys(name: ObjectName, text: str) -> None:
    assert str(name) == text
    assert ObjectName.parse(text) == name


def test_a_key_with_two_slashes_is_an_error() -> None:
    with pytest.raises(ValueError, match='unexpected key format: "a/b/c"'):
        ObjectName.parse("a/b/c")


def test_messages_name_the_group_last() -> None:
    assert str(GroupResource("apps", "deployments")) == "deployments.apps"
    assert str(GroupResource("", "pods")) == "pods"
    assert str(GroupKind("apps", "Deployment")) == "Deployment.apps"


def test_api_versions_split_and_join() -> None:
    assert split_api_version("v1") == ("", "v1")
    kind = GroupVersionKind.of("apps/v1", "Deployment")
    assert kind == ("apps", "v1", "Deployment")
    assert kind.api_version == "apps/v1"
    assert GroupVersionKind("", "v1", "Pod").api_version == "v1"
