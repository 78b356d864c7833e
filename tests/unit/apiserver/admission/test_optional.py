"""The plug-ins that have to be asked for, by a few writes each; refusals in the words of kube-apiserver v1.36."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import Allowing, Objects, parts, pod, run, write
from tiphys.apiserver.admission.configuration import load_configuration
from tiphys.apiserver.admission.event_rate import EventRateLimit
from tiphys.apiserver.admission.namespaces import NamespaceAutoProvision, NamespaceExists
from tiphys.apiserver.admission.optional_pods import (
    AlwaysPullImages,
    ExtendedResourceToleration,
    LimitPodHardAntiAffinityTopology,
)
from tiphys.apiserver.admission.owners import OwnerReferencesPermissionEnforcement
from tiphys.apiserver.admission.placement import (
    DEFAULTS,
    SELECTOR,
    WHITELIST,
    PodNodeSelector,
    PodTolerationRestriction,
)
from tiphys.apiserver.admission.plugins import admission_chain
from tiphys.apiserver.admission.pod_security.plugin import PodSecurity
from tiphys.apiserver.admission.simple import AlwaysDeny, DenyServiceExternalIPs
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.configfile import ConfigError
from tiphys.machinery.errors import StatusError


@pytest.fixture
def objects() -> Objects:
    return Objects()


def message(error: pytest.ExceptionInfo[StatusError]) -> str:
    return str(error.value.status["message"])


async def refused(plugin: Any, attributes: Any) -> str:
    with pytest.raises(StatusError) as error:
        await run(plugin, attributes)
    return message(error)


async def test_images_are_always_pulled(objects: Objects) -> None:
    plugin = AlwaysPullImages(parts(objects))
    found = pod(containers=[{"name": "c", "image": "i", "imagePullPolicy": "Never"}])
    await run(plugin, write("v1/pods", found))
    assert found["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    old = pod(containers=[{"name": "c", "image": "i", "imagePullPolicy": "Never"}])
    await run(plugin, write("v1/pods", pod(containers=[{"name": "c", "image": "i"}]), old))  # no new image


async def test_devices_are_tolerated(objects: Objects) -> None:
    found = pod(containers=[{"name": "c", "resources": {"requests": {"example.com/gpu": "1", "cpu": "1"}}}])
    await run(ExtendedResourceToleration(parts(objects)), write("v1/pods", found))
    assert found["spec"]["tolerations"] == [{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


async def test_far_anti_affinity(objects: Objects) -> None:
    def with_key(key: str) -> Any:
        terms = [{"topologyKey": key}]
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        return write("v1/pods", pod(affinity=affinity))

    plugin = LimitPodHardAntiAffinityTopology(parts(objects))
    await run(plugin, with_key("kubernetes.io/hostname"))
    assert "has TopologyKey zone but only key kubernetes.io/hostname is allowed" in await refused(
        plugin, with_key("zone")
    )


async def test_external_addresses(objects: Objects) -> None:
    def service(*addresses: str) -> dict[str, Any]:
        return {"metadata": {"name": "s"}, "spec": {"externalIPs": list(addresses)}}

    plugin = DenyServiceExternalIPs(parts(objects))
    await run(plugin, write("v1/services", service("1.2.3.4"), service("1.2.3.4", "5.6.7.8")))
    told = await refused(plugin, write("v1/services", service("1.2.3.4"), service("5.6.7.8")))
    assert told == 'services "s" is forbidden: Use of external IPs is denied by admission control'


async def test_namespaces_come_when_needed(objects: Objects) -> None:
    write_it = write("v1/configmaps", {"metadata": {"name": "a"}}, namespace="new")
    assert await refused(NamespaceExists(parts(objects)), write_it) == 'namespaces "new" not found'
    await run(NamespaceAutoProvision(parts(objects)), write_it)
    assert objects.get("", "namespaces", ("", "new")) is not None
    await run(NamespaceExists(parts(objects)), write_it)


async def test_nothing_passes(objects: Objects) -> None:
    told = await refused(AlwaysDeny(parts(objects)), write("v1/pods", pod()))
    assert told == 'pods "p" is forbidden: admission control is denying all modifications'


async def test_node_selectors_of_namespaces(objects: Objects) -> None:
    objects.add("", "namespaces", "default", metadata={"annotations": {SELECTOR: "a=b"}})
    objects.add("", "namespaces", "plain")
    config = {"PodNodeSelector": {"podNodeSelectorPluginConfig": {"clusterDefaultNodeSelector": "c=d", "plain": "c=d"}}}
    plugin = PodNodeSelector(parts(objects, configuration=config))
    found = pod(nodeSelector={"x": "y"})
    await run(plugin, write("v1/pods", found))
    assert found["spec"]["nodeSelector"] == {"x": "y", "a": "b"}
    told = await refused(plugin, write("v1/pods", pod(nodeSelector={"a": "z"})))
    assert told.endswith("pod node label selector conflicts with its namespace node label selector")
    told = await refused(plugin, write("v1/pods", pod(nodeSelector={"x": "y"}), namespace="plain"))
    assert told.endswith("pod node label selector labels conflict with its namespace whitelist")


async def test_tolerations_of_namespaces(objects: Objects) -> None:
    allowed = '[{"key":"k","operator":"Exists"}]'
    objects.add("", "namespaces", "default", metadata={"annotations": {DEFAULTS: allowed, WHITELIST: allowed}})
    plugin = PodTolerationRestriction(parts(objects))
    found = pod(tolerations=[{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}])
    await run(plugin, write("v1/pods", found))
    assert found["spec"]["tolerations"] == [{"key": "k", "operator": "Exists"}]
    told = await refused(plugin, write("v1/pods", pod(tolerations=[{"key": "z", "operator": "Exists"}])))
    assert told.startswith("pod tolerations (possibly merged with namespace default tolerations) conflict with")


async def test_owners_need_permission(objects: Objects) -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}

    def owned(**more: Any) -> dict[str, Any]:
        return {"metadata": {"name": "a", "ownerReferences": [{**owner, **more}]}}

    plugin = OwnerReferencesPermissionEnforcement(parts(objects, authorizer=Allowing()))
    await run(plugin, write("v1/configmaps", owned()))
    told = await refused(plugin, write("v1/configmaps", owned(), {"metadata": {"name": "a"}}))
    assert "cannot set an ownerRef on a resource you can't delete" in told
    told = await refused(plugin, write("v1/configmaps", owned(blockOwnerDeletion=True)))
    assert "if an ownerReference refers to a resource you can't set finalizers on" in told
    plugin = OwnerReferencesPermissionEnforcement(parts(objects, authorizer=Allowing(("update", "pods", "p"))))
    await run(plugin, write("v1/configmaps", owned(blockOwnerDeletion=True)))


async def test_events_that_come_too_fast(objects: Objects) -> None:
    document = {
        "apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
        "kind": "Configuration",
        "limits": [{"type": "Namespace", "qps": 1, "burst": 2}, {"type": "User", "qps": 1, "burst": 1}],
    }
    now = [0.0]
    config = {"EventRateLimit": document}
    plugin = EventRateLimit(parts(objects, configuration=config, monotonic=lambda: now[0]))

    def event(user: str) -> Any:
        return write("v1/events", {"metadata": {"name": "e"}}, user=UserInfo(user))

    await run(plugin, event("a"))
    await run(plugin, event("b"))
    told = await refused(plugin, event("b"))
    assert told == (
        "Too many requests: [limit reached on type Namespace for key default, limit reached on type User for key b]"
    )
    now[0] = 2.0
    await run(plugin, event("b"))


async def test_pod_security_by_configuration(objects: Objects) -> None:
    objects.add("", "namespaces", "default")
    objects.add("", "namespaces", "exempt")
    document = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "v1.30"},
        "exemptions": {"namespaces": ["exempt"], "usernames": ["bob"], "runtimeClasses": ["special"]},
    }
    plugin = PodSecurity(parts(objects, configuration={"PodSecurity": document}))
    told = await refused(plugin, write("v1/pods", pod(hostNetwork=True)))
    assert told == 'pods "p" is forbidden: violates PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)'
    found = await run(plugin, write("v1/pods", pod(hostNetwork=True), user=UserInfo("bob")))
    assert found.annotations == {"pod-security.kubernetes.io/exempt": "user"}
    await run(plugin, write("v1/pods", pod(hostNetwork=True, runtimeClassName="special")))
    await run(plugin, write("v1/pods", pod(hostNetwork=True), namespace="exempt"))


def test_names(objects: Objects) -> None:
    admission_chain(parts(objects), ["AlwaysPullImages"], ["PodGroupProtection"])
    with pytest.raises(ValueError, match=r'^enable-admission-plugins plugin "Nope" is unknown$'):
        admission_chain(parts(objects), ["Nope"])
    with pytest.raises(ValueError, match=r"^\[Priority\] in enable-admission-plugins and disable-.* overlapped$"):
        admission_chain(parts(objects), ["Priority"], ["Priority"])
    with pytest.raises(ConfigError, match="must not be empty"):
        admission_chain(parts(objects), ["EventRateLimit"])


def test_configuration_files(tmp_path: Path) -> None:
    file = tmp_path / "admission.yaml"
    file.write_text(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
        "plugins: [{name: A, path: a.yaml}, {name: B, configuration: {c: d}}]"
    )
    (tmp_path / "a.yaml").write_text("a: b")
    assert load_configuration(file) == {"A": {"a": "b"}, "B": {"c": "d"}}
    with pytest.raises(ConfigError, match="unable to read admission control configuration"):
        load_configuration(tmp_path / "none.yaml")
