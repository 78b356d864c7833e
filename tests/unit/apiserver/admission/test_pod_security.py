"""The Pod Security Standards by table, and what the plug-in makes of them."""

from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import Objects, parts, pod, run, write
from tiphys.apiserver.admission.pod_security.checks import evaluate
from tiphys.apiserver.admission.pod_security.levels import LATEST, Level, Standard, policy_of
from tiphys.apiserver.admission.pod_security.plugin import PodSecurity
from tiphys.apiserver.admission.pod_security.pod import Pod
from tiphys.machinery.errors import ForbiddenError, InvalidError

ENFORCE = "pod-security.kubernetes.io/enforce"
HARD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {"name": "c", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    ],
}


def container(name: str = "c", **context: Any) -> dict[str, Any]:
    return {"name": name, "securityContext": context}


def hard(**changes: Any) -> dict[str, Any]:
    return HARD | changes


BASELINE = [
    ({}, ""),
    ({"hostNetwork": True}, "host namespaces (hostNetwork=true)"),
    (
        {"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]},
        'hostPath volumes (volumes "a", "b")',
    ),
    (
        {"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 443}]}]},
        'hostPorts (containers "a", "b" use hostPorts 443, 80)',
    ),
    (
        {"containers": [container(privileged=True)]},
        'privileged (container "c" must not set securityContext.privileged=true)',
    ),
    (
        {"containers": [container("a", capabilities={"add": ["CHOWN", "NET_ADMIN"]})]},
        'non-default capabilities (container "a" must not include "NET_ADMIN" in securityContext.capabilities.add)',
    ),
    (
        {"containers": [container(procMount="Unmasked")]},
        'procMount (container "c" must not set securityContext.procMount to "Unmasked")',
    ),
    ({"hostUsers": False, "containers": [container(procMount="Unmasked")]}, ""),
    ({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}, ""),
    (
        {"containers": [container(seLinuxOptions={"role": "r", "type": "t"})]},
        'seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "t"; role may not be set)',
    ),
    (
        {
            "securityContext": {"seccompProfile": {"type": "Unconfined"}},
            "containers": [container(seccompProfile={"type": "Unconfined"})],
        },
        'seccompProfile (pod and container "c" must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    (
        {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]}},
        "forbidden sysctls (kernel.msgmax)",
    ),
    (
        {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]},
        'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")',
    ),
    ({"initContainers": [container("init", privileged=True)], "containers": []}, "privileged"),
    ({"ephemeralContainers": [container("debug", privileged=True)]}, "privileged"),
    (
        {"securityContext": {"windowsOptions": {"hostProcess": True}}},
        "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ),
]


@pytest.mark.parametrize(("spec", "expected"), BASELINE)
def test_baseline(spec: dict[str, Any], expected: str) -> None:
    found = [str(one) for one in evaluate(Standard(Level.BASELINE), Pod({}, spec))]
    assert len(found) == (1 if expected else 0)
    assert not expected or found[0].startswith(expected)


RESTRICTED = [
    (hard(), []),
    (hard(volumes=[{"name": "v", "nfs": {}}]), ['volume "v" uses restricted volume type "nfs"']),
    (hard(volumes=[{"name": "v", "secret": {}}, {"name": "h", "hostPath": {}}]), ["restricted volume types"]),
    (hard(securityContext={"seccompProfile": {"type": "Localhost"}}), ["pod or container"]),
    (hard(securityContext=HARD["securityContext"] | {"runAsUser": 0}), ["runAsUser=0 (pod must not set runAsUser=0)"]),
    (hard(securityContext=HARD["securityContext"] | {"runAsUser": 0}, hostUsers=False), []),
    (
        hard(containers=[container("a"), container("b", runAsNonRoot=False)]),
        [
            'containers "a", "b" must set securityContext.allowPrivilegeEscalation=false',
            'containers "a", "b" must set securityContext.capabilities.drop=["ALL"]',
            'container "b" must not set securityContext.runAsNonRoot=false',
        ],
    ),
]


@pytest.mark.parametrize(("spec", "expected"), RESTRICTED)
def test_restricted(spec: dict[str, Any], expected: list[str]) -> None:
    found = [str(one) for one in evaluate(Standard(Level.RESTRICTED), Pod({}, spec))]
    assert len(found) == len(expected), found
    for text, part in zip(found, expected, strict=True):
        assert part in text


@pytest.mark.parametrize(
    ("level", "minor", "spec", "count"),
    [
        (Level.BASELINE, 33, {"containers": [{"livenessProbe": {"tcpSocket": {"host": "h"}}}]}, 0),
        (Level.BASELINE, 34, {"containers": [{"livenessProbe": {"tcpSocket": {"host": "h"}}}]}, 1),
        (Level.BASELINE, 34, {"hostUsers": False, "containers": [container(procMount="Unmasked")]}, 1),
        (Level.BASELINE, 31, {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_wmem"}]}}, 1),
        (Level.BASELINE, 32, {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_wmem"}]}}, 0),
        (Level.RESTRICTED, 7, {"containers": [container()]}, 1),  # runAsNonRoot alone
        (Level.RESTRICTED, 24, {"os": {"name": "windows"}, "containers": [container()]}, 4),
        (Level.RESTRICTED, 25, {"os": {"name": "windows"}, "containers": [container()]}, 1),
        (Level.PRIVILEGED, LATEST, {"hostPID": True}, 0),
    ],
)
def test_standards_change_with_versions(level: Level, minor: int, spec: dict[str, Any], count: int) -> None:
    assert len(evaluate(Standard(level, minor), Pod({}, spec))) == count


@pytest.mark.parametrize(
    ("labels", "enforce", "warn", "errors"),
    [
        ({}, "privileged:latest", "privileged:latest", 0),
        ({ENFORCE: "baseline"}, "baseline:latest", "baseline:latest", 0),
        ({ENFORCE: "baseline", ENFORCE + "-version": "v1.24"}, "baseline:v1.24", "baseline:v1.24", 0),
        (
            {ENFORCE: "baseline", "pod-security.kubernetes.io/warn": "privileged"},
            "baseline:latest",
            "privileged:latest",
            0,
        ),
        ({ENFORCE: "wrong"}, "restricted:latest", "privileged:latest", 1),
        ({ENFORCE: "baseline", ENFORCE + "-version": "1.24"}, "baseline:latest", "baseline:latest", 1),
        ({"pod-security.kubernetes.io/warn": "wrong"}, "privileged:latest", "privileged:latest", 1),
    ],
)
def test_policy_of_labels(labels: dict[str, str], enforce: str, warn: str, errors: int) -> None:
    policy = policy_of(labels)
    assert (str(policy.enforce), str(policy.warn), len(policy.errors)) == (enforce, warn, errors)


def plugin(**labels: str) -> tuple[PodSecurity, Objects]:
    objects = Objects()
    named = {f"pod-security.kubernetes.io/{mode}": level for mode, level in labels.items()}
    objects.add("", "namespaces", "default", metadata={"labels": named})
    return PodSecurity(parts(objects)), objects


async def test_a_pod_that_breaks_the_enforced_standard_is_refused() -> None:
    checker, _ = plugin(enforce="baseline")
    with pytest.raises(
        ForbiddenError, match='pods "p" is forbidden: violates PodSecurity "baseline:latest": host names'
    ):
        await run(checker, write("v1/pods", pod(hostPID=True)))


async def test_warn_and_audit_only_note() -> None:
    checker, _ = plugin(warn="baseline", audit="restricted")
    attributes = await run(checker, write("v1/pods", pod(hostPID=True)))
    assert attributes.warnings == ['would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)']
    assert "audit-violations" in str(attributes.annotations)


async def test_a_workload_is_warned_about_and_not_refused() -> None:
    checker, _ = plugin(enforce="baseline")
    template = {"spec": {"containers": [], "hostIPC": True}}
    job = {"metadata": {"name": "j"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    attributes = await run(checker, write("batch/v1/cronjobs", job))
    assert attributes.warnings == ['would violate PodSecurity "baseline:latest": host namespaces (hostIPC=true)']


async def test_an_update_counts_only_when_it_changes_what_runs() -> None:
    checker, _ = plugin(enforce="baseline")
    old, labelled = pod(hostPID=True), pod(hostPID=True)
    labelled["metadata"]["labels"] = {"a": "b"}
    await run(checker, write("v1/pods", labelled, old))
    changed = pod(hostPID=True, containers=[{"name": "c", "image": "other"}])
    with pytest.raises(ForbiddenError):
        await run(checker, write("v1/pods", changed, old))


async def test_whoever_tightens_a_namespace_hears_of_its_pods() -> None:
    checker, objects = plugin()
    for name in ("a", "b"):
        objects.found.setdefault(("", "pods"), []).append(pod(name, hostPID=True))
    old = objects.get("", "namespaces", ("", "default"))
    new = {"metadata": {"name": "default", "labels": {ENFORCE: "baseline"}}}
    attributes = await run(checker, write("v1/namespaces", new, old))
    assert attributes.warnings == [
        'existing pods in namespace "default" violate the new PodSecurity enforce level "baseline:latest"',
        "a (and 1 other pod): host namespaces",
    ]


async def test_labels_of_a_namespace_must_make_sense() -> None:
    checker, _ = plugin()
    new = {"metadata": {"name": "n", "labels": {ENFORCE: "strict"}}}
    with pytest.raises(InvalidError, match="must be one of privileged, baseline, restricted"):
        await run(checker, write("v1/namespaces", new))
    # What was wrong before may stay: other labels can still be changed.
    await run(checker, write("v1/namespaces", {**new, "spec": {}}, new))
