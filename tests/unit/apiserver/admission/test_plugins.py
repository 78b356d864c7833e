"""The small plug-ins, each by a few writes; and the chain they are in."""

import asyncio
from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import ALICE, Allowing, Objects, parts, pod, run, write
from tiphys.apiserver.admission.certificates import CertificateApproval, CertificateSigning
from tiphys.apiserver.admission.interface import AdmissionAttributes, AdmissionChain, Operation
from tiphys.apiserver.admission.lifecycle import NamespaceLifecycle
from tiphys.apiserver.admission.limit_ranger import LimitRanger
from tiphys.apiserver.admission.node_restriction import NodeRestriction
from tiphys.apiserver.admission.plugins import PLUGINS, admission_chain
from tiphys.apiserver.admission.pods import (
    DefaultTolerationSeconds,
    PodTopologyLabels,
    Priority,
    RuntimeClass,
    TaintNodesByCondition,
)
from tiphys.apiserver.admission.service_account import MOUNT_PATH, ServiceAccount
from tiphys.apiserver.admission.storage import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.base.clock import FakeClock
from tiphys.machinery.errors import ForbiddenError, NotFoundError, StatusError

KUBELET = UserInfo("system:node:n1", groups=("system:nodes",))


@pytest.fixture
def objects() -> Objects:
    return Objects()


# --- the chain ------------------------------------------------------------------------------------
class Counting:
    """Counts; asks to begin again the first time when told so."""

    name = "Counting"

    def __init__(self, *, again: bool = False) -> None:
        self.calls: list[str] = []
        self._again = again

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return True

    async def admit(self, attributes: AdmissionAttributes) -> None:
        self.calls.append("again" if attributes.is_reinvocation else "admit")
        attributes.reinvoke = attributes.reinvoke or self._again

    async def validate(self, attributes: AdmissionAttributes) -> None:
        self.calls.append("validate")


async def test_every_plugin_sees_a_change_once_more() -> None:
    first, second = Counting(), Counting(again=True)
    await AdmissionChain([first, second]).admit(write("v1/pods", pod()))
    assert first.calls == second.calls == ["admit", "again"]


async def test_deletions_run_both_halves_at_once() -> None:
    plugin = Counting()
    await AdmissionChain([plugin]).validate(write("v1/pods", None, pod(), operation=Operation.DELETE))
    assert plugin.calls == ["admit", "validate"]


def test_plugins_are_known_by_name(objects: Objects) -> None:
    assert len({plugin.name for plugin in PLUGINS}) == len(PLUGINS)
    with pytest.raises(ValueError, match='plugin "Nonsense" is unknown'):
        admission_chain(parts(objects), ["Nonsense"])


# --- namespaces -----------------------------------------------------------------------------------
async def test_nothing_is_made_where_there_is_no_namespace(objects: Objects) -> None:
    plugin = NamespaceLifecycle(parts(objects))
    with pytest.raises(NotFoundError, match='namespaces "default" not found'):
        await run(plugin, write("v1/pods", pod()))
    objects.add("", "namespaces", "default", status={"phase": "Terminating"})
    with pytest.raises(ForbiddenError, match="because it is being terminated") as refused:
        await run(plugin, write("v1/pods", pod()))
    assert refused.value.status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    await run(plugin, write("v1/pods", pod(), pod()))  # what is there may change


@pytest.mark.parametrize(("name", "mortal"), [("default", False), ("kube-system", False), ("mine", True)])
async def test_some_namespaces_stay(objects: Objects, name: str, mortal: bool) -> None:
    attributes = write("v1/namespaces", None, {"metadata": {"name": name}}, operation=Operation.DELETE)
    if mortal:
        await run(NamespaceLifecycle(parts(objects)), attributes)
        return
    with pytest.raises(ForbiddenError, match="this namespace may not be deleted"):
        await run(NamespaceLifecycle(parts(objects)), attributes)


# --- limit ranges ---------------------------------------------------------------------------------
def limited(objects: Objects, **limit: Any) -> LimitRanger:
    objects.add("", "limitranges", "l", "default", spec={"limits": [{"type": "Container", **limit}]})
    return LimitRanger(parts(objects))


async def test_defaults_of_a_limit_range(objects: Objects) -> None:
    plugin = limited(objects, default={"cpu": "1"}, defaultRequest={"cpu": "100m"})
    found = (await run(plugin, write("v1/pods", pod()))).object
    assert found is not None
    assert found["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}
    note = found["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
    assert note == "LimitRanger plugin set: cpu request for container c; cpu limit for container c"


@pytest.mark.parametrize(
    ("limit", "resources", "message"),
    [
        (
            {"max": {"cpu": "1"}},
            {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}},
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            {"min": {"cpu": "1"}},
            {"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}},
            "minimum cpu usage per Container is 1, but request is 500m",
        ),
        (
            {"min": {"cpu": "1"}, "max": {"memory": "1Mi"}},
            {"requests": {"cpu": "1m", "memory": "2Mi"}, "limits": {"cpu": "1m", "memory": "2Mi"}},
            (
                "[minimum cpu usage per Container is 1, but request is 1m, "
                "maximum memory usage per Container is 1Mi, but limit is 2Mi]"
            ),
        ),
        ({"min": {"cpu": "1"}}, {}, "minimum cpu usage per Container is 1.  No request is specified"),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
    ],
)
async def test_bounds_of_a_limit_range(
    objects: Objects, limit: dict[str, Any], resources: dict[str, Any], message: str
) -> None:
    asked = pod(containers=[{"name": "c", "resources": resources}])
    with pytest.raises(ForbiddenError) as refused:
        await run(limited(objects, **limit), write("v1/pods", asked))
    assert refused.value.message == f'pods "p" is forbidden: {message}'


async def test_a_limit_range_holds_for_a_resize_too(objects: Objects) -> None:
    plugin = limited(objects, max={"cpu": "1"}, default={"memory": "1Gi"})
    before, after = (pod(containers=[{"name": "c", "resources": {"limits": {"cpu": cpu}}}]) for cpu in ("1", "2"))
    with pytest.raises(ForbiddenError, match="maximum cpu usage per Container is 1, but limit is 2"):
        await run(plugin, write("v1/pods", after, before, subresource="resize"))
    await run(plugin, write("v1/pods", after, before))
    granted = (await run(plugin, write("v1/pods", before, before, subresource="resize"))).object
    assert granted is not None
    assert granted["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}}


# --- service accounts -----------------------------------------------------------------------------
async def test_a_pod_gets_its_account_and_token(objects: Objects) -> None:
    plugin = ServiceAccount(parts(objects))
    with pytest.raises(ForbiddenError, match='serviceaccount "mine" not found'):
        await run(plugin, write("v1/pods", pod(serviceAccountName="mine")))
    objects.add("", "serviceaccounts", "default", "default", imagePullSecrets=[{"name": "pull"}])
    found = (await run(plugin, write("v1/pods", pod()))).object
    assert found is not None
    spec = found["spec"]
    assert spec["serviceAccountName"] == "default"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == MOUNT_PATH and mount["name"] == spec["volumes"][0]["name"]


async def test_a_pod_that_comes_with_its_namespace_waits_for_the_default_account(objects: Objects) -> None:
    clock = FakeClock()
    plugin = ServiceAccount(parts(objects, clock=clock))
    waiting = asyncio.create_task(run(plugin, write("v1/pods", pod())))
    await clock.advance(0.8)
    assert not waiting.done()
    objects.add("", "serviceaccounts", "default", "default")
    await clock.advance(0.1)
    found = (await waiting).object
    assert found is not None and found["spec"]["serviceAccountName"] == "default"


async def test_the_default_account_is_not_waited_for_for_ever(objects: Objects) -> None:
    clock = FakeClock()
    waiting = asyncio.create_task(run(ServiceAccount(parts(objects, clock=clock)), write("v1/pods", pod())))
    await clock.advance(2.0)
    with pytest.raises(ForbiddenError, match='serviceaccount "default" not found'):
        await waiting


@pytest.mark.parametrize(
    ("account", "spec", "mounted"),
    [(None, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
async def test_whether_the_token_is_mounted(
    objects: Objects, account: bool | None, spec: bool | None, mounted: bool
) -> None:
    objects.add("", "serviceaccounts", "default", "default", automountServiceAccountToken=account)
    given = pod() if spec is None else pod(automountServiceAccountToken=spec)
    found = (await run(ServiceAccount(parts(objects)), write("v1/pods", given))).object
    assert found is not None and bool(found["spec"].get("volumes")) is mounted


# --- pods -----------------------------------------------------------------------------------------
async def test_priority_is_that_of_the_class(objects: Objects) -> None:
    objects.add("scheduling.k8s.io", "priorityclasses", "high", value=7, preemptionPolicy="Never")
    objects.add("scheduling.k8s.io", "priorityclasses", "usual", value=3, globalDefault=True)
    plugin = Priority(parts(objects))
    for name, value, policy in (("high", 7, "Never"), ("", 3, "PreemptLowerPriority")):
        found = (await run(plugin, write("v1/pods", pod(priorityClassName=name)))).object
        assert found is not None
        assert (found["spec"]["priority"], found["spec"]["preemptionPolicy"]) == (value, policy)
    with pytest.raises(ForbiddenError, match="no PriorityClass with name none was found"):
        await run(plugin, write("v1/pods", pod(priorityClassName="none")))
    with pytest.raises(ForbiddenError, match="must not be provided in pod spec"):
        await run(plugin, write("v1/pods", pod(priorityClassName="high", priority=9)))
    with pytest.raises(ForbiddenError, match="usual is already marked as default"):
        second = {"metadata": {"name": "second"}, "globalDefault": True}
        await run(plugin, write("scheduling.k8s.io/v1/priorityclasses", second))


async def test_tolerations_and_taints(objects: Objects) -> None:
    found = (await run(DefaultTolerationSeconds(parts(objects)), write("v1/pods", pod()))).object
    assert found is not None
    assert {one["key"]: one["tolerationSeconds"] for one in found["spec"]["tolerations"]} == {
        "node.kubernetes.io/not-ready": 300,
        "node.kubernetes.io/unreachable": 300,
    }
    own = [{"operator": "Exists"}]
    found = (await run(DefaultTolerationSeconds(parts(objects)), write("v1/pods", pod(tolerations=own)))).object
    assert found is not None and found["spec"]["tolerations"] == own
    fresh: dict[str, Any] = {"metadata": {"name": "n"}}
    await run(TaintNodesByCondition(parts(objects)), write("v1/nodes", fresh))
    assert fresh["spec"] == {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}


async def test_a_runtime_class_adds_its_overhead(objects: Objects) -> None:
    plugin = RuntimeClass(parts(objects))
    with pytest.raises(ForbiddenError, match='RuntimeClass "slow" not found'):
        await run(plugin, write("v1/pods", pod(runtimeClassName="slow")))
    scheduling = {"nodeSelector": {"kind": "slow"}}
    objects.add("node.k8s.io", "runtimeclasses", "slow", overhead={"podFixed": {"cpu": "1"}}, scheduling=scheduling)
    found = (await run(plugin, write("v1/pods", pod(runtimeClassName="slow")))).object
    assert found is not None
    assert (found["spec"]["overhead"], found["spec"]["nodeSelector"]) == ({"cpu": "1"}, {"kind": "slow"})
    with pytest.raises(ForbiddenError, match="Overhead set without corresponding RuntimeClass"):
        await run(plugin, write("v1/pods", pod(overhead={"cpu": "1"})))


async def test_pods_say_where_their_node_is(objects: Objects) -> None:
    zone = {"topology.kubernetes.io/zone": "z"}
    objects.add("", "nodes", "n", metadata={"labels": {**zone, "other": "x"}})
    binding = {"metadata": {"name": "p", "labels": {"a": "b"}}, "target": {"name": "n"}}
    found = (await run(PodTopologyLabels(parts(objects)), write("v1/pods", binding, subresource="binding"))).object
    assert found is not None and found["metadata"]["labels"] == {"a": "b", **zone}
    found = (await run(PodTopologyLabels(parts(objects)), write("v1/pods", pod(nodeName="n")))).object
    assert found is not None and found["metadata"]["labels"] == zone


# --- storage and ingress --------------------------------------------------------------------------
async def test_the_newest_default_class_is_taken(objects: Objects) -> None:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    for name, created in (
        ("old", "2024-01-01T00:00:00Z"),
        ("b", "2024-01-02T00:00:00Z"),
        ("a", "2024-01-02T00:00:00Z"),
    ):
        metadata = {"annotations": annotations, "creationTimestamp": created}
        objects.add("storage.k8s.io", "storageclasses", name, metadata=metadata)
    claim: dict[str, Any] = {"metadata": {"name": "c"}, "spec": {}}
    await run(DefaultStorageClass(parts(objects)), write("v1/persistentvolumeclaims", claim))
    assert claim["spec"] == {"storageClassName": "a"}
    chosen: dict[str, Any] = {"metadata": {"name": "c"}, "spec": {"storageClassName": ""}}
    await run(DefaultStorageClass(parts(objects)), write("v1/persistentvolumeclaims", chosen))
    assert chosen["spec"] == {"storageClassName": ""}
    await run(StorageObjectInUseProtection(parts(objects)), write("v1/persistentvolumeclaims", claim))
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


async def test_the_default_ingress_class(objects: Objects) -> None:
    metadata = {"annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}
    objects.add("networking.k8s.io", "ingressclasses", "web", metadata=metadata)
    ingress: dict[str, Any] = {"metadata": {"name": "i"}, "spec": {}}
    await run(DefaultIngressClass(parts(objects)), write("networking.k8s.io/v1/ingresses", ingress))
    assert ingress["spec"] == {"ingressClassName": "web"}


@pytest.mark.parametrize(
    ("size", "expandable", "phase", "message"),
    [
        ("2Gi", True, "Bound", ""),
        ("1Gi", False, "Bound", ""),
        ("2Gi", False, "Bound", "the storageclass that provisions the pvc must support resize"),
        ("2Gi", True, "Pending", "Only bound persistent volume claims can be expanded"),
    ],
)
async def test_claims_grow(objects: Objects, size: str, expandable: bool, phase: str, message: str) -> None:
    objects.add("storage.k8s.io", "storageclasses", "s", allowVolumeExpansion=expandable)

    def claim(asked: str) -> dict[str, Any]:
        spec = {"storageClassName": "s", "resources": {"requests": {"storage": asked}}}
        return {"metadata": {"name": "c"}, "spec": spec, "status": {"phase": phase}}

    attributes = write("v1/persistentvolumeclaims", claim(size), claim("1Gi"))
    if not message:
        await run(PersistentVolumeClaimResize(parts(objects)), attributes)
        return
    with pytest.raises(ForbiddenError, match=message):
        await run(PersistentVolumeClaimResize(parts(objects)), attributes)


# --- kubelets -------------------------------------------------------------------------------------
def on_node(node: str = "n1", **labels: str) -> dict[str, Any]:
    found = pod(nodeName=node)
    found["metadata"] |= {"labels": labels, "uid": "u"}
    return found


def mirror(**changes: Any) -> dict[str, Any]:
    found = pod(nodeName="n1", **changes)
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": True}
    found["metadata"] |= {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]}
    return found


def node(name: str = "n1", taints: Any = (), **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}}


def token(**bound: str) -> dict[str, Any]:
    return {"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", **bound} if bound else None}}


def kubelet(path: str, new: Any, old: Any = None, **more: Any) -> AdmissionAttributes:
    return write(path, new, old, user=KUBELET, **more)


DELETE = Operation.DELETE


def slice_of(node_name: str) -> dict[str, Any]:
    return {"metadata": {"name": "s"}, "spec": {"nodeName": node_name}}


KUBELET_WRITES = [
    (kubelet("v1/pods", mirror()), ""),
    (kubelet("v1/pods", on_node()), 'node "n1" can only create mirror pods'),
    (kubelet("v1/pods", mirror(serviceAccountName="x")), "can not create pods that reference a service account"),
    (
        kubelet("v1/pods", mirror(volumes=[{"name": "v", "secret": {}}])),
        "can not create pods that reference secrets",
    ),
    (kubelet("v1/pods", None, on_node(), operation=DELETE), ""),
    (
        kubelet("v1/pods", None, on_node("n2"), operation=DELETE),
        'node "n1" can only delete pods with spec.nodeName set to itself',
    ),
    (kubelet("v1/pods", on_node(), on_node(), subresource="status"), ""),
    (kubelet("v1/pods", on_node("n2"), on_node("n2"), subresource="status"), "can only update pod status for pods"),
    (kubelet("v1/pods", on_node(a="b"), on_node(), subresource="status"), "cannot update labels through pod status"),
    (kubelet("v1/pods", on_node(), on_node(), subresource="binding"), 'unexpected pod subresource "binding"'),
    (kubelet("v1/nodes", node()), ""),
    (kubelet("v1/nodes", node("n2")), 'node "n1" is not allowed to modify node "n2"'),
    (kubelet("v1/nodes", node(**{"kubernetes.io/hostname": "h", "acme.com/x": "y"})), ""),
    (kubelet("v1/nodes", node(**{"node-role.kubernetes.io/x": ""})), "not allowed to set the following labels"),
    (
        kubelet("v1/nodes", node(**{"node-restriction.kubernetes.io/x": ""}), node()),
        "is not allowed to modify labels: node-restriction.kubernetes.io/x",
    ),
    (kubelet("v1/nodes", node(taints=[{"key": "a"}]), node()), 'node "n1" is not allowed to modify taints'),
    (kubelet("v1/nodes", None, node(), operation=DELETE), 'node "n1" is not allowed to delete node "n1"'),
    (kubelet("v1/serviceaccounts", token(name="own", uid="u"), subresource="token"), ""),
    (kubelet("v1/serviceaccounts", token(), subresource="token"), "node requested token not bound to a pod"),
    (
        kubelet("v1/serviceaccounts", token(name="theirs", uid="u"), subresource="token"),
        "node requested token bound to a pod scheduled on a different node",
    ),
    (
        kubelet("v1/serviceaccounts", token(name="own"), subresource="token"),
        "node requested token with a pod binding without a uid",
    ),
    (
        kubelet("coordination.k8s.io/v1/leases", {"metadata": {"name": "n1"}}, namespace="kube-node-lease"),
        "",
    ),
    (
        kubelet("coordination.k8s.io/v1/leases", {"metadata": {"name": "n2"}}, namespace="kube-node-lease"),
        "can only access node lease with the same name as the requesting node",
    ),
    (
        kubelet("storage.k8s.io/v1/csinodes", {"metadata": {"name": "n2"}}),
        "can only access CSINode with the same name as the requesting node",
    ),
    (kubelet("resource.k8s.io/v1/resourceslices", slice_of("n1")), ""),
    (
        kubelet("resource.k8s.io/v1/resourceslices", slice_of("n2")),
        "can only create ResourceSlice with the same NodeName as the requesting node",
    ),
    (kubelet("v1/nodes", {**node(), "spec": {"configSource": {}}}, node()), "to a new non-nil configSource"),
    (write("v1/nodes", None, node("n2"), operation=DELETE, user=ALICE), ""),
]


@pytest.mark.parametrize(("attributes", "message"), KUBELET_WRITES)
async def test_kubelets_write_their_own(objects: Objects, attributes: AdmissionAttributes, message: str) -> None:
    objects.add("", "nodes", "n1", metadata={"uid": "node-uid"})
    objects.add("", "pods", "own", "default", metadata={"uid": "u"}, spec={"nodeName": "n1"})
    objects.add("", "pods", "theirs", "default", metadata={"uid": "u"}, spec={"nodeName": "n2"})
    plugin = NodeRestriction(parts(objects))
    if not message:
        await run(plugin, attributes)
        return
    with pytest.raises(ForbiddenError) as refused:
        await run(plugin, attributes)
    assert message in refused.value.message


# --- certificates ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verb", "plugin", "subresource"),
    [("approve", CertificateApproval, "approval"), ("sign", CertificateSigning, "status")],
)
@pytest.mark.parametrize(("named", "allowed"), [("acme.com/one", True), ("acme.com/*", True), ("acme.com/two", False)])
async def test_signers(objects: Objects, verb: str, plugin: Any, subresource: str, named: str, allowed: bool) -> None:
    old = {"metadata": {"name": "r"}, "spec": {"signerName": "acme.com/one"}}
    new = {**old, "status": {"certificate": "x"}}
    path = "certificates.k8s.io/v1/certificatesigningrequests"
    attributes = write(path, new, old, subresource=subresource)
    given = plugin(parts(objects, authorizer=Allowing((verb, "signers", named))))
    if allowed:
        await run(given, attributes)
        return
    with pytest.raises(StatusError, match=f'user not permitted to {verb} requests with signerName "acme.com/one"'):
        await run(given, attributes)
