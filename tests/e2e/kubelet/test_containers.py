"""Init containers, sidecars, restart policies, hooks, probes and the reasons containers wait for."""

from __future__ import annotations

import socket
from collections.abc import Set
from functools import partial

import pytest

from tests.e2e.kubelet.node import TestNode, eventually
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Pod
from tiphys.client import PatchType
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root


def waiting(pod: Pod) -> str:
    statuses = pod.status.container_statuses
    return statuses[0].state.waiting.reason if statuses and statuses[0].state and statuses[0].state.waiting else ""


async def test_init_containers_run_one_after_the_other_and_then_the_pod(node: TestNode) -> None:
    volumes = [{"name": "data", "emptyDir": {}}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    await node.create(
        "init",
        {
            "volumes": volumes,
            "initContainers": [
                busybox("one", "sh", "-c", "echo one >> /data/order", volumeMounts=mounts),
                busybox("two", "sh", "-c", "echo two >> /data/order", volumeMounts=mounts),
            ],
            "containers": [busybox("app", "sh", "-c", "cat /data/order; sleep 1000", volumeMounts=mounts)],
        },
    )
    pod = await node.running("init")
    assert [status.state.terminated.reason for status in pod.status.init_container_statuses] == ["Completed"] * 2
    assert (await node.exec("init", "cat", "/data/order")).split() == ["one", "two"]


async def test_a_sidecar_starts_first_and_ends_last(node: TestNode) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    # Uptime in hundredths of a second is the finest clock of a busybox shell.
    ends = "trap 'cut -d\" \" -f1 /proc/uptime > /data/{}; exit 0' TERM; while :; do sleep 0.05; done"
    ends = ends.replace("while", "touch /data/{}-listens; while", 1)
    sidecar = "touch /data/up; " + ends.format("sidecar", "sidecar")
    app = "test -e /data/up && echo first > /data/seen; " + ends.format("app", "app")
    host = node.root / "shared"
    host.mkdir()
    await node.create(
        "sidecar",
        {
            "terminationGracePeriodSeconds": 10,
            "volumes": [{"name": "data", "hostPath": {"path": str(host), "type": "Directory"}}],
            "initContainers": [
                busybox(
                    "proxy",
                    "sh",
                    "-c",
                    sidecar,
                    restartPolicy="Always",
                    volumeMounts=mounts,
                    startupProbe={"exec": {"command": ["test", "-e", "/data/up"]}, "periodSeconds": 1},
                )
            ],
            "containers": [busybox("app", "sh", "-c", app, volumeMounts=mounts)],
        },
    )
    pod = await node.running("sidecar")
    assert pod.status.init_container_statuses[0].started is True

    async def listening() -> bool:
        return {"app-listens", "sidecar-listens"} <= {path.name for path in host.iterdir()}

    await eventually(listening, "both to hear of their end")
    await node.delete("sidecar")
    await node.gone("sidecar")
    assert (host / "seen").read_text() == "first\n"
    assert float((host / "app").read_text()) < float((host / "sidecar").read_text())


async def test_a_job_like_pod_succeeds_and_keeps_its_log(node: TestNode) -> None:
    await node.create("job", {"restartPolicy": "Never", "containers": [busybox("app", "echo", "done")]})
    pod = await node.phase("job", "Succeeded")
    terminated = pod.status.container_statuses[0].state.terminated
    assert (terminated.reason, terminated.exit_code) == ("Completed", 0)
    assert b"stdout F done\n" in node.log(pod, "app").read_bytes()
    ready = next(condition for condition in pod.status.conditions if condition.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "PodCompleted")


async def test_a_failing_pod_fails_with_its_termination_message(node: TestNode) -> None:
    script = "echo -n bad luck > /dev/termination-log; exit 3"
    await node.create("fail", {"restartPolicy": "Never", "containers": [busybox("app", "sh", "-c", script)]})
    pod = await node.phase("fail", "Failed")
    terminated = pod.status.container_statuses[0].state.terminated
    assert (terminated.reason, terminated.exit_code, terminated.message) == ("Error", 3, "bad luck")


async def test_a_crashing_container_backs_off(node: TestNode) -> None:
    await node.create("crash", {"containers": [busybox("app", "sh", "-c", "exit 1")]})
    pod = await node.wait("crash", lambda pod: waiting(pod) == "CrashLoopBackOff", "CrashLoopBackOff")
    status = pod.status.container_statuses[0]
    assert status.restart_count == 1
    assert status.state.waiting.message.startswith("back-off 10s restarting failed container=app pod=crash_default(")
    assert status.last_state.terminated.exit_code == 1
    assert pod.status.phase == "Running"
    assert (await node.event("crash", "BackOff")).startswith("Back-off restarting failed container app in pod crash")


@pytest.mark.parametrize(
    ("image", "policy", "reason"),
    [
        ("docker.io/library/absent:1", "Never", "ErrImageNeverPull"),
        ("Not A Name", "IfNotPresent", "InvalidImageName"),
        ("127.0.0.1:1/nothing:1", "IfNotPresent", "ErrImagePull"),
    ],
    ids=["never pulled", "no name", "no registry"],
)
async def test_an_image_that_cannot_be_had_is_the_reason_to_wait(
    node: TestNode, image: str, policy: str, reason: str
) -> None:
    await node.create("image", {"containers": [{**busybox(), "image": image, "imagePullPolicy": policy}]})
    pod = await node.wait("image", lambda pod: waiting(pod) == reason, reason)
    assert pod.status.phase == "Pending"
    await node.delete("image")
    await node.gone("image")


async def test_a_failing_liveness_probe_restarts_and_readiness_is_withdrawn(node: TestNode) -> None:
    await node.create(
        "probed",
        {
            "containers": [
                busybox(
                    "app",
                    "sh",
                    "-c",
                    "touch /tmp/alive /tmp/ready; exec sleep 1000",
                    livenessProbe={
                        "exec": {"command": ["cat", "/tmp/alive"]},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                    readinessProbe={
                        "exec": {"command": ["cat", "/tmp/ready"]},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                )
            ]
        },
    )
    await node.running("probed")
    await node.exec("probed", "rm", "/tmp/ready")
    await node.wait("probed", lambda pod: not pod.status.container_statuses[0].ready, "not ready")
    await node.exec("probed", "rm", "/tmp/alive")
    pod = await node.wait("probed", lambda pod: pod.status.container_statuses[0].restart_count == 1, "restarted")
    assert pod.status.container_statuses[0].last_state.terminated.exit_code == 137
    assert await node.event("probed", "Killing") == "Container app failed liveness probe, will be restarted"
    messages = [message for reason, message in await node.events("probed") if reason == "Unhealthy"]
    assert "Liveness probe failed: cat: can't open '/tmp/alive': No such file or directory\n" in messages


async def test_hooks_run_after_the_start_and_before_the_stop(node: TestNode) -> None:
    host = node.root / "hooks"
    host.mkdir()
    await node.create(
        "hooked",
        {
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "data", "hostPath": {"path": str(host)}}],
            "containers": [
                busybox(
                    "app",
                    "sh",
                    "-c",
                    "trap 'exit 0' TERM; while :; do sleep 0.05; done",
                    volumeMounts=[{"name": "data", "mountPath": "/data"}],
                    lifecycle={
                        "postStart": {"exec": {"command": ["touch", "/data/started"]}},
                        "preStop": {"exec": {"command": ["touch", "/data/stopping"]}},
                    },
                )
            ],
        },
    )
    await node.running("hooked")
    assert (host / "started").exists() and not (host / "stopping").exists()
    await node.delete("hooked")
    await node.gone("hooked")
    assert (host / "stopping").exists()


async def test_readiness_counts_until_the_last_container_has_ended(node: TestNode) -> None:
    drain = "trap 'rm /tmp/ready; sleep 4; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.05; done"
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.create(
        "drains",
        {"terminationGracePeriodSeconds": 20, "containers": [busybox("app", "sh", "-c", drain, readinessProbe=probe)]},
    )

    def is_ready(pod: Pod) -> bool:
        return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions)

    await node.wait("drains", is_ready, "being ready")
    await node.client.delete(Pod, ObjectName("default", "drains"))
    unready = await node.wait("drains", lambda pod: not is_ready(pod), "being ready no more while it ends")
    state = unready.status.container_statuses[0].state
    assert state is not None
    assert state.running is not None


async def test_conditions_of_others_stay_as_they_are_set(node: TestNode) -> None:
    gate, name = "example.com/gate", ObjectName("default", "gated")
    gates = [{"conditionType": gate}]
    await node.create("gated", {"readinessGates": gates, "containers": [busybox("app", "sleep", "1000")]})
    await node.phase("gated", "Running")
    for status in ("True", "False", "True"):
        patch = {"status": {"conditions": [{"type": gate, "status": status}]}}
        await node.client.patch(Pod, name, patch, patch_type=PatchType.STRATEGIC, subresource="status")
        wanted = {"Ready": status, gate: status}.items()
        await node.wait("gated", partial(_shows, wanted), f"being ready as the gate says: {status}")


def _shows(wanted: Set[tuple[str, str]], pod: Pod) -> bool:
    return wanted <= {one.type: one.status for one in pod.status.conditions}.items()


async def test_a_failing_post_start_hook_is_the_reason_to_wait(node: TestNode) -> None:
    hook = {"postStart": {"exec": {"command": ["false"]}}}
    await node.create("badhook", {"containers": [busybox("app", "sleep", "1000", lifecycle=hook)]})
    await node.wait("badhook", lambda pod: waiting(pod) in ("PostStartHookError", "CrashLoopBackOff"), "waiting")
    assert (await node.event("badhook", "FailedPostStartHook")).startswith("PostStartHook failed: command 'false'")


async def test_a_deadline_ends_the_pod(node: TestNode) -> None:
    await node.create("late", {"activeDeadlineSeconds": 1, "containers": [busybox()]})
    pod = await node.phase("late", "Failed")
    assert pod.status.reason == "DeadlineExceeded"


async def test_a_memory_hog_is_killed_as_oomkilled(node: TestNode) -> None:
    hog = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    await node.create(
        "hog",
        {
            "restartPolicy": "Never",
            "containers": [busybox("app", "sh", "-c", hog, resources={"limits": {"memory": "20Mi", "cpu": "500m"}})],
        },
    )
    pod = await node.phase("hog", "Failed")
    assert pod.status.qos_class == "Guaranteed"
    terminated = pod.status.container_statuses[0].state.terminated
    assert (terminated.reason, terminated.exit_code) == ("OOMKilled", 137)


async def test_a_pod_on_the_hosts_network_is_probed_over_http(node: TestNode) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"mkdir /www; echo well > /www/health; exec httpd -f -p 127.0.0.1:{port} -h /www"
    ready = {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 1}
    await node.create(
        "host", {"hostNetwork": True, "containers": [busybox("app", "sh", "-c", server, readinessProbe=ready)]}
    )
    pod = await node.running("host")
    assert pod.status.pod_ip == pod.status.host_ip == "127.0.0.1"
    assert (await node.exec("host", "cat", "/etc/hosts")).startswith("# Kubernetes-managed hosts file (host network).")
    await node.exec("host", "rm", "/www/health")
    await node.wait("host", lambda pod: not pod.status.container_statuses[0].ready, "not ready")
    messages = [message for reason, message in await node.events("host") if reason == "Unhealthy"]
    assert "Readiness probe failed: HTTP probe failed with statuscode: 404" in messages


async def test_an_ephemeral_container_joins_a_running_pod(node: TestNode) -> None:
    await node.create("debugged", {"containers": [busybox()]})
    await node.running("debugged")
    debugger = {**busybox("debug", "sh", "-c", "echo hello; exit 4"), "targetContainerName": "app"}
    await node.client.request_json(
        "PATCH",
        "/api/v1/namespaces/default/pods/debugged/ephemeralcontainers",
        {"spec": {"ephemeralContainers": [debugger]}},
        content_type="application/strategic-merge-patch+json",
    )
    pod = await node.wait(
        "debugged",
        lambda pod: (
            bool(pod.status.ephemeral_container_statuses)
            and pod.status.ephemeral_container_statuses[0].state.terminated is not None
        ),
        "the debugger ended",
    )
    assert pod.status.ephemeral_container_statuses[0].state.terminated.exit_code == 4
    assert pod.status.phase == "Running"


async def test_an_evicted_pod_says_why(node: TestNode) -> None:
    volume = {"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}
    fill = "dd if=/dev/zero of=/data/file bs=1M count=3; exec sleep 1000"
    mounts = [{"name": "data", "mountPath": "/data"}]
    await node.create(
        "greedy", {"volumes": [volume], "containers": [busybox("app", "sh", "-c", fill, volumeMounts=mounts)]}
    )
    pod = await node.phase("greedy", "Failed")
    assert pod.status.reason == "Evicted"
    assert pod.status.message == 'Usage of EmptyDir volume "data" exceeds the limit "1Mi". '
    target = next(condition for condition in pod.status.conditions if condition.type == "DisruptionTarget")
    assert (target.status, target.reason) == ("True", "TerminationByKubelet")


async def test_one_containers_end_starts_all_of_them_anew(node: TestNode) -> None:
    once = "test -f /data/x && exec sleep 1000; touch /data/x; exit 88"
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}
    mounts = [{"name": "data", "mountPath": "/data"}]
    source = busybox("source", "sh", "-c", once, volumeMounts=mounts, restartPolicy="Never", restartPolicyRules=[rule])
    spec = {
        "restartPolicy": "Never",
        "initContainers": [busybox("init", "true")],
        "containers": [source, busybox("other")],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    created = await node.create("again", spec)

    def restarted(pod: Pod) -> bool:
        statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
        return pod.status.phase == "Running" and [status.restart_count for status in statuses] == [1, 1, 1]

    pod = await node.wait("again", restarted, "the restart of all")
    assert pod.metadata.uid == created.metadata.uid
    ended = {status.name: status.last_state for status in pod.status.container_statuses}
    assert {name: state.terminated.exit_code for name, state in ended.items() if state and state.terminated} == {
        "source": 88,
        "other": 137,
    }
    await node.running("again")
