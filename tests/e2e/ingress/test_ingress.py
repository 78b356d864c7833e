"""Ingress objects, asked for from outside the cluster on both nodes."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.cluster.harness import until
from tests.e2e.ingress.conftest import Site, tls_secret

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]


def ingress(name: str, *rules: str, annotations: str = "{}", more: str = "") -> str:
    """A manifest. A rule is `host path type service`; host "-" is any."""
    text = "apiVersion: networking.k8s.io/v1\nkind: Ingress\n"
    text += f"metadata: {{name: {name}, annotations: {annotations}}}\nspec:\n"
    for line in more.splitlines():
        text += f"  {line}\n"
    if rules:
        text += "  rules:\n"
    for rule in rules:
        host, path, kind, service = rule.split()
        text += f"  - {'' if host == '-' else f'host: {host!r}'}\n" if host != "-" else "  -\n"
        text += f"    http: {{paths: [{{path: {path!r}, pathType: {kind}, "
        text += f"backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}\n"
    return text + "---\n"


def app_at(site: Site, host: str, path: str, node: int = 0) -> str | int:
    """Who answers: the app, or the status when it is no pod."""
    answer = site.front.ask(host, path, node=node)
    return answer.app or answer.status


def test_hosts_and_paths_of_every_type(site: Site) -> None:
    site.apply(
        ingress(
            "paths",
            "a.example / Prefix one",
            "a.example /two Prefix two",
            "a.example /two/exact Exact one",
            "a.example /impl ImplementationSpecific two",
            "*.wild.example / Prefix two",
            "only.example /only Exact one",
        )
    )
    for node in (0, 1):
        until(lambda node=node: app_at(site, "a.example", "/", node) == "one", "the first answer", 30)
        expected = {
            ("a.example", "/other?x=1"): "one",
            ("A.Example:80", "/two"): "two",
            ("a.example", "/two/"): "two",
            ("a.example", "/two/deep/er"): "two",
            ("a.example", "/twofold"): "one",
            ("a.example", "/two/exact"): "one",
            ("a.example", "/two/exact/"): "two",
            ("a.example", "/impl/x"): "two",
            ("x.wild.example", "/"): "two",
            ("x.y.wild.example", "/"): 404,
            ("wild.example", "/"): 404,
            ("only.example", "/only"): "one",
            ("only.example", "/only/"): 404,
            ("unknown.example", "/"): 404,
        }
        assert {key: app_at(site, *key, node) for key in expected} == expected
    said = site.front.ask("a.example", "/x", X_Forwarded_For="6.6.6.6").said["headers"]
    assert said["host"] == "a.example" and said["x-forwarded-proto"] == "http"
    assert said["x-forwarded-for"] == said["x-real-ip"] != "6.6.6.6"
    status = "jsonpath={.status.loadBalancer.ingress[*].ip}"
    until(
        lambda: site.kubectl("get", "ingress", "paths", "-o", status).split() == sorted(site.front.addresses),
        "the addresses in the status",
        30,
    )
    site.kubectl("delete", "ingress", "paths")
    until(lambda: app_at(site, "a.example", "/") == 404, "the routes to go", 30)


def test_the_older_of_two_wins_and_default_back_ends(site: Site) -> None:
    site.apply(ingress("older", "c.example /x Prefix one"))
    until(lambda: app_at(site, "c.example", "/x") == "one", "the older", 30)
    time.sleep(1.1)  # ages are compared by seconds
    backend = "defaultBackend: {service: {name: two, port: {name: web}}}"
    site.apply(ingress("newer", "c.example /x Prefix two", "d.example /d Prefix one", more=backend))
    until(lambda: app_at(site, "d.example", "/d") == "one", "the newer", 30)
    assert app_at(site, "c.example", "/x") == "one"
    assert app_at(site, "d.example", "/else") == "two"
    assert app_at(site, "nobody.example", "/") == "two"
    site.kubectl("delete", "ingress", "older")
    until(lambda: app_at(site, "c.example", "/x") == "two", "the newer to take over", 30)
    site.kubectl("delete", "ingress", "newer")


def test_another_class_is_left_alone_and_mistakes_are_said(site: Site) -> None:
    site.apply(ingress("foreign", "f.example / Prefix one", more="ingressClassName: other"))
    annotations = "{nginx.ingress.kubernetes.io/auth-tls-secret: x, nginx.ingress.kubernetes.io/proxy-body-size: much}"
    site.apply(ingress("wrong", "g.example / Prefix nobody", "h.example / Prefix one", annotations=annotations))
    until(lambda: app_at(site, "h.example", "/") == "one", "the good rule", 30)
    assert site.front.ask("g.example").status == 503
    assert app_at(site, "f.example", "/") == 404

    def events() -> str:
        return site.kubectl(
            "get", "events", "--field-selector", "involvedObject.name=wrong", "-o", "jsonpath={..message}"
        )

    for words in ("service default/nobody is not there", "auth-tls-secret is not supported", '"much" is not a size'):
        until(lambda words=words: words in events(), words, 20)
    assert site.kubectl("get", "ingress", "foreign", "-o", "jsonpath={.status.loadBalancer}") == "{}"
    site.kubectl("delete", "ingress", "foreign", "wrong")


def test_tls_by_name_and_its_reload(site: Site) -> None:
    secret, certificate = tls_secret("web-tls", "s.example", "*.s.example")
    site.apply(secret)
    tls = "tls: [{hosts: [s.example, '*.s.example'], secretName: web-tls}]"
    site.apply(
        ingress("secure", "s.example / Prefix one", "x.s.example / Prefix two", "p.example / Prefix one", more=tls)
    )
    until(lambda: site.front.certificate("s.example").split() == certificate.split(), "the certificate", 30)
    assert site.front.certificate("x.s.example").split() == certificate.split()
    assert site.front.certificate("p.example").split() != certificate.split()  # our own
    answer = site.front.ask("s.example", "/a", tls=True)
    assert (answer.app, answer.said["headers"]["x-forwarded-proto"]) == ("one", "https")
    redirect = site.front.ask("s.example", "/a?b=c")
    assert (redirect.status, redirect.location) == (308, "https://s.example/a?b=c")
    assert app_at(site, "p.example", "/") == "one"
    renewed, second = tls_secret("web-tls", "s.example")
    site.apply(renewed)
    until(lambda: site.front.certificate("s.example").split() == second.split(), "the renewed certificate", 30)
    site.kubectl("delete", "ingress", "secure")
    site.kubectl("delete", "secret", "web-tls")


def test_annotations(site: Site) -> None:
    def annotated(**values: str) -> str:
        pairs = ", ".join(
            f"nginx.ingress.kubernetes.io/{key.replace('_', '-')}: {value!r}" for key, value in values.items()
        )
        return "{" + pairs + "}"

    site.apply(
        ingress("rw", "r.example /api(/|$)(.*) ImplementationSpecific one", annotations=annotated(rewrite_target="/$2"))
        + ingress("whole", "w.example /w Prefix one", annotations=annotated(rewrite_target="/new"))
        + ingress(
            "go", "go.example / Prefix one", annotations=annotated(permanent_redirect="https://elsewhere.example/x")
        )
        + ingress("force", "force.example / Prefix one", annotations=annotated(force_ssl_redirect="true"))
        + ingress("root", "root.example / Prefix one", annotations=annotated(app_root="/app"))
        + ingress("small", "small.example / Prefix one", annotations=annotated(proxy_body_size="1k"))
        + ingress("guard", "guard.example / Prefix one", annotations=annotated(whitelist_source_range="203.0.113.0/24"))
        + ingress("sticky", "sticky.example / Prefix two", annotations=annotated(affinity="cookie"))
        + ingress("last", "last.example / Prefix one", annotations=annotated(upstream_vhost="inner.example"))
    )
    until(lambda: site.front.ask("last.example").said.get("headers", {}).get("host") == "inner.example", "the last", 30)
    assert site.front.ask("r.example", "/api/a/b?c=d").said["path"] == "/a/b?c=d"
    assert site.front.ask("r.example", "/api").said["path"] == "/"
    assert site.front.ask("r.example", "/apis").status == 404
    assert site.front.ask("w.example", "/w/a?c=d").said["path"] == "/new?c=d"
    gone = site.front.ask("go.example", "/y")
    assert (gone.status, gone.location) == (301, "https://elsewhere.example/x")
    forced = site.front.ask("force.example", "/y")
    assert (forced.status, forced.location) == (308, "https://force.example/y")
    assert site.front.ask("root.example", "/").location == "/app"
    assert app_at(site, "root.example", "/app") == "one"
    assert site.front.ask("small.example", method="POST", body=b"x" * 100).status == 200
    assert site.front.ask("small.example", method="POST", body=b"x" * 2000).status == 413
    assert site.front.ask("guard.example").status == 403
    first = site.front.ask("sticky.example")
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert {site.front.ask("sticky.example", Cookie=cookie).said["pod"] for _ in range(6)} == {first.said["pod"]}
    assert len({site.front.ask("sticky.example").said["pod"] for _ in range(6)}) == 2
    site.kubectl("delete", "ingress", "--all")


def test_streams_upgrades_and_endpoints_that_come_and_go(site: Site) -> None:
    site.apply(ingress("moving", "m.example / Prefix two"))
    until(lambda: app_at(site, "m.example", "/") == "two", "an answer", 30)
    assert site.front.ask("m.example", "/stream").body == b"piece0piece1piece2"
    with site.front.upgraded("m.example") as channel:
        channel.sendall(b"before")
        assert channel.recv(100) == b"before"
        reloads = pids(site)
        # A reload: the connection goes on in the old process.
        site.apply(ingress("further", "n.example / Prefix one"))
        until(lambda: app_at(site, "n.example", "/") == "one", "the reload", 30)
        assert pids(site) != reloads
        channel.sendall(b"after")
        assert channel.recv(100) == b"after"
    # The old process ends with its last connection; left are the master and one worker.
    until(lambda: len(pids(site)) == 2, "the old process to end", 30)
    workers = pids(site)
    failures: list[object] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            answer = site.front.ask("m.example")
            if answer.status != 200:
                failures.append((answer.status, answer.body))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        site.kubectl("scale", "deployment", "two", "--replicas=3")
        site.kubectl("rollout", "status", "deployment/two", "--timeout=60s")
        site.kubectl("rollout", "restart", "deployment/two")
        site.kubectl("rollout", "status", "deployment/two", "--timeout=90s")
        site.kubectl("scale", "deployment", "two", "--replicas=2")
        site.kubectl("rollout", "status", "deployment/two", "--timeout=60s")
    finally:
        stop.set()
        asking.join()
    assert failures == []
    assert pids(site) == workers  # endpoints need no reload
    site.kubectl("delete", "ingress", "--all")


def test_killed_controllers_and_proxies_come_back(site: Site) -> None:
    site.apply(ingress("kept", "k.example / Prefix one"))
    until(lambda: app_at(site, "k.example", "/") == "one", "an answer", 30)
    name = f"{site.cluster.name}-1"
    with site.front.upgraded("k.example") as channel:
        before = site.cluster.pids()[f"{name}/ingress"]
        os.kill(before, signal.SIGKILL)
        assert app_at(site, "k.example", "/") == "one"  # the proxy does not notice
        channel.sendall(b"still")
        assert channel.recv(100) == b"still"
        until(lambda: site.cluster.pids().get(f"{name}/ingress", before) != before, "another controller", 30)
        site.apply(ingress("later", "l.example / Prefix two"))
        until(lambda: app_at(site, "l.example", "/") == "two", "what it learnt since", 30)
        channel.sendall(b"there")
        assert channel.recv(100) == b"there"
    for pid in pids(site):
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        try:
            return app_at(site, "k.example", "/") == "one"
        except OSError:
            return False

    until(back, "another proxy", 30)
    site.kubectl("delete", "ingress", "--all")


def pids(site: Site) -> set[int]:
    """HAProxy's processes on the first node."""
    marker = f"/{site.cluster.name}-1/ingress/haproxy.cfg".encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"haproxy\0" in command and marker in command:
            found.add(int(process.name))
    return found
