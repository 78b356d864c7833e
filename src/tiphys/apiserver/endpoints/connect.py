"""log, exec, attach, portforward and the proxies: requests passed on to a kubelet, a pod or a service.

    pods/NAME/exec?container=c&command=ls   →  https://NODE:10250/exec/NAMESPACE/NAME/c?command=ls&…
    pods/NAME/log?container=c&follow=true   →  https://NODE:10250/containerLogs/NAMESPACE/NAME/c?follow=true
    pods/[https:]NAME[:port]/proxy/PATH     →  http://POD-IP:port/PATH
    services/[https:]NAME[:port]/proxy/PATH →  an address of one of its ready endpoints
    nodes/NAME[:port]/proxy/PATH            →  https://NODE:10250/PATH

The server shows kubelets its client certificate, and never passes on the credentials of whoever asked.
"""

from __future__ import annotations

import random
import ssl
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httptools

from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.read_websocket import WebSocketBody, handshake, wants_websocket
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.http.links import Links, Rewriter, rewriter
from tiphys.apiserver.http.response import Answer, RawConnection, Response, Stream, StreamResponse, Upgrade
from tiphys.apiserver.http.upstream import HOP_BY_HOP, Exchange, Head, Target, failure
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import Object
from tiphys.base.tls import client_context
from tiphys.machinery.errors import (
    StatusError,
    bad_request,
    internal_error,
    not_found,
    service_unavailable,
    status_of,
)
from tiphys.machinery.meta import GroupResource, GroupVersionKind, ObjectName

# Parameters passed on to the kubelet, by subresource: (name here, name there).
LOG_PARAMETERS: Final = (
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
)
STREAM_FLAGS: Final = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
STREAMS: Final = tuple(ours for ours, _ in STREAM_FLAGS)
MAX_REFUSAL: Final = 10_000  # bytes of a kubelet's error that are read
TRUE: Final = frozenset({"true", "1", "True", "TRUE", "t", "T", ""})


# Makes the error of a status, a text and the name asked for.
Refuse = Callable[[int, str, str], StatusError]


@dataclass(frozen=True, slots=True)
class KubeletAccess:
    """How this server reaches kubelets."""

    port: int = 10250
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a proxied request goes; `node` is where that runs, "" when unknown."""

    address: str
    port: int
    node: str


class Connector:
    """Serves the subresources that are connections. One per server; `handlers` goes into Services.extra."""

    def __init__(self, access: KubeletAccess, egress: Egress) -> None:
        self._access = access
        self._egress = egress
        self._kubelet_tls: ssl.SSLContext | None = None
        self._plain_tls: ssl.SSLContext | None = None

    def handlers(self) -> dict[tuple[str, str, str], Any]:
        """What serves what."""
        return {
            ("", "pods", "log"): self.log,
            ("", "pods", "exec"): self.execute,
            ("", "pods", "attach"): self.attach,
            ("", "pods", "portforward"): self.port_forward,
            ("", "pods", "proxy"): self.pod_proxy,
            ("", "nodes", "proxy"): self.node_proxy,
            ("", "services", "proxy"): self.service_proxy,
        }

    # --- kubelets ------------------------------------------------------------------------------------
    def _kubelet_context(self) -> ssl.SSLContext:
        if self._kubelet_tls is None:
            access = self._access
            if access.ca is not None:
                context = client_context(file=access.ca)
                context.check_hostname = False  # kubelets are reached by address, whatever their certificate names
            else:
                context = self._unverified()
            if access.certificate is not None and access.key is not None:
                context.load_cert_chain(str(access.certificate), str(access.key))
            self._kubelet_tls = context
        return self._kubelet_tls

    @staticmethod
    def _unverified() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def _kubelet(self, api: ApiRequest, node_name: str, path: str, port: int = 0) -> Target:
        node = api.services.reader.get("", "nodes", ObjectName("", node_name))
        if node is None:
            raise not_found(GroupResource("", "nodes"), node_name)
        status = node.get("status") or {}
        address = node_address(status.get("addresses") or ())
        if not address:
            raise internal_error(f"no preferred addresses found; known addresses: {status.get('addresses') or []}")
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        known = endpoint.get("Port") or self._access.port
        return Target(host=address, port=port or known, path=path, tls=self._kubelet_context())

    # --- log, exec, attach, portforward --------------------------------------------------------------
    async def log(self, api: ApiRequest, served: ServedResource) -> Answer:
        """GET pods/NAME/log."""
        pod = _pod(api, served)
        container = _container(pod, api.parameter("container"))
        if not (pod.get("spec") or {}).get("nodeName"):
            return Response(200, b"", content_type="text/plain")  # nothing has run yet
        query = {name: api.parameter(name) for name in LOG_PARAMETERS if api.parameter(name)}
        path = f"/containerLogs/{api.info.namespace}/{api.info.name}/{quote(container)}?{urlencode(query)}"
        target = self._kubelet(api, pod["spec"]["nodeName"], path.rstrip("?"))
        if wants_websocket(api.request):
            return await self._log_over_websocket(api, target)
        return await self._pass_on(api, target, method="GET", body=b"", content_type="text/plain", refuse=_log_refusal)

    async def _log_over_websocket(self, api: ApiRequest, target: Target) -> Answer:
        """The kubelet is asked plainly: the WebSocket is between this server and its client."""
        accepted = handshake(api.request)
        exchange = Exchange(target)
        try:
            await exchange.open()
            await exchange.send("GET", {}, b"", upgrade=False)
            head = await exchange.answer()
            if not 200 <= head.status <= 206:
                raise _log_refusal(head.status, await exchange.text(MAX_REFUSAL), api.info.name)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            await exchange.close()
            raise unreachable(target, error) from None
        except BaseException:
            await exchange.close()
            raise
        return Upgrade(WebSocketBody(exchange, accepted).run)

    async def execute(self, api: ApiRequest, served: ServedResource) -> Answer:
        """POST or GET pods/NAME/exec."""
        return await self._stream(api, served, "exec", [("command", one) for one in api.query.get("command", ())])

    async def attach(self, api: ApiRequest, served: ServedResource) -> Answer:
        """POST or GET pods/NAME/attach."""
        return await self._stream(api, served, "attach", [])

    async def _stream(self, api: ApiRequest, served: ServedResource, what: str, query: list[tuple[str, str]]) -> Answer:
        pod = _pod(api, served)
        container = _container(pod, api.parameter("container"))
        node = _assigned_node(pod)
        for ours, theirs in STREAM_FLAGS:
            if ours in api.query and api.query[ours][0] in TRUE:
                query.append((theirs, "1"))
        await self._admit(api, served)
        path = f"/{what}/{api.info.namespace}/{api.info.name}/{quote(container)}?{urlencode(query)}"
        return await self._pass_on(api, self._kubelet(api, node, path.rstrip("?")))

    async def port_forward(self, api: ApiRequest, served: ServedResource) -> Answer:
        """POST or GET pods/NAME/portforward."""
        pod = _pod(api, served)
        node = _assigned_node(pod)
        await self._admit(api, served)
        # Clients write one parameter for each port, or one with commas; kubelets read the first form.
        query = urlencode([("port", one) for one in connect_options(api).get("ports", ())])
        path = f"/portForward/{api.info.namespace}/{api.info.name}?{query}"
        return await self._pass_on(api, self._kubelet(api, node, path.rstrip("?")))

    async def _admit(self, api: ApiRequest, served: ServedResource) -> None:
        options = connect_options(api)
        kind = GroupVersionKind("", "v1", options["kind"])
        admission = RequestAdmission(api, served, Operation.CONNECT, kind=kind)
        await admission.mutate(options, None)
        await admission.validate(options, None)

    # --- proxies -------------------------------------------------------------------------------------
    async def pod_proxy(self, api: ApiRequest, served: ServedResource) -> Answer:
        """Any method on pods/[SCHEME:]NAME[:PORT]/proxy."""
        scheme, name, port = split_name(api.info.name)
        entry = served.store.get(api.info.namespace, name)
        pod = served.store.decode(entry)
        addresses = (pod.get("status") or {}).get("podIPs") or ()
        address = addresses[0].get("ip") if addresses else (pod.get("status") or {}).get("podIP")
        if not address:
            raise bad_request("address not allowed")
        number = port or str(_first_port(pod))
        if not number.isdecimal():
            number = str(_named_port(pod, number))
        await self._admit(api, served)
        node = (pod.get("spec") or {}).get("nodeName") or ""
        return await self._proxy(api, scheme, Backend(address, int(number), node))

    async def service_proxy(self, api: ApiRequest, served: ServedResource) -> Answer:
        """Any method on services/[SCHEME:]NAME[:PORT]/proxy: one of the ready endpoints answers."""
        scheme, name, port = split_name(api.info.name)
        service = served.store.decode(served.store.get(api.info.namespace, name))
        backend = _endpoint(api, service, port)
        await self._admit(api, served)
        return await self._proxy(api, scheme, backend)

    async def node_proxy(self, api: ApiRequest, served: ServedResource) -> Answer:
        """Any method on nodes/NAME[:PORT]/proxy."""
        _, name, port = split_name(api.info.name)
        await self._admit(api, served)
        target = self._kubelet(api, name, _remaining_path(api), int(port) if port.isdecimal() else 0)
        return _to_root(api) or await self._pass_on(api, _as_asked(api, target), links=_links(api))

    async def _proxy(self, api: ApiRequest, scheme: str, backend: Backend) -> Answer:
        redirect = _to_root(api)
        if redirect is not None:
            return redirect
        tls = None
        if scheme == "https":
            # Pods have no certificates this server could check: upstream does not either.
            tls = self._plain_tls = self._plain_tls or self._unverified()
        namespace = self._egress.namespace(backend.node)
        target = Target(
            host=backend.address, port=backend.port, path=_remaining_path(api), tls=tls, namespace=namespace
        )
        return await self._pass_on(api, _as_asked(api, target), links=_links(api))

    # --- passing on ----------------------------------------------------------------------------------
    async def _pass_on(
        self,
        api: ApiRequest,
        target: Target,
        *,
        method: str = "",
        body: bytes | None = None,
        content_type: str = "",
        refuse: Refuse | None = None,
        links: Links | None = None,
    ) -> Answer:
        request = api.request
        exchange = Exchange(target)
        upgrade = request.upgrade and "upgrade" in request.headers
        try:
            await exchange.open()
            payload = request.body if body is None else body
            given = request.headers if links is None else _forwarded(api)
            await exchange.send(method or request.method, given, payload, upgrade=upgrade)
            if upgrade:
                return Upgrade(_Tunnel(exchange).run)
            head = await exchange.answer()
            if refuse is not None and not 200 <= head.status <= 206:
                raise refuse(head.status, await exchange.text(MAX_REFUSAL), api.info.name)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            await exchange.close()
            raise unreachable(target, error) from None
        except BaseException:
            await exchange.close()
            raise
        headers = [(name, value) for name, value in head.headers if name.lower() not in _REPLACED]
        kind = _header(head, "content-type") or content_type
        rewriting = None
        if links is not None:
            headers = [(name, links.rewrite(one) if name.lower() == "location" else one) for name, one in headers]
            if not _header(head, "location"):
                rewriting = rewriter(links, kind, _header(head, "content-encoding"))
        return StreamResponse(_Relay(exchange, rewriting).run, status=head.status, content_type=kind, headers=headers)


_REPLACED: Final = HOP_BY_HOP | {"content-length", "content-type", "date", "audit-id", "cache-control"}


# What a connection is asked for with, by resource and subresource: the kind, and its parameters as they are read.
_OPTIONS: Final[Mapping[tuple[str, str], tuple[str, Mapping[str, str]]]] = {
    ("pods", "exec"): ("PodExecOptions", {**dict.fromkeys(STREAMS, "flag"), "container": "text", "command": "list"}),
    ("pods", "attach"): ("PodAttachOptions", {**dict.fromkeys(STREAMS, "flag"), "container": "text"}),
    ("pods", "portforward"): ("PodPortForwardOptions", {"ports": "numbers"}),
    ("pods", "proxy"): ("PodProxyOptions", {"path": "path"}),
    ("services", "proxy"): ("ServiceProxyOptions", {"path": "path"}),
    ("nodes", "proxy"): ("NodeProxyOptions", {"path": "path"}),
}


def connect_options(api: ApiRequest) -> Object:
    """The object admission sees of a connection: its parameters as a kind of core/v1, without those not given."""
    kind, fields = _OPTIONS[api.info.resource, api.info.subresource]
    options: Object = {"kind": kind, "apiVersion": "v1"}
    for name, form in fields.items():
        values = api.query.get(name) or ()
        if form == "path":
            options[name] = _remaining_path(api).partition("?")[0]
        elif form == "flag" and values and values[0] in TRUE:
            options[name] = True
        elif form == "text" and values and values[0]:
            options[name] = values[0]
        elif form == "list" and values:
            options[name] = list(values)
        elif form == "numbers" and values:
            options[name] = [int(port) for value in values for port in value.split(",") if port.isdecimal()]
    return options


def _log_refusal(status: int, text: str, pod: str) -> StatusError:
    """What a kubelet's plain "no" to a request for a log is for the client."""
    if status == 400:
        return bad_request(text)
    if status == 500:
        return internal_error(text)
    if status == 404:
        message = f"the server could not find the requested resource ( pods/log {pod})"
        return StatusError(status_of(404, "NotFound", message))
    return StatusError(status_of(status, "", f"an error on the server ({text!r}) has prevented the request"))


class _Relay:
    def __init__(self, exchange: Exchange, rewriting: Rewriter | None) -> None:
        self._exchange = exchange
        self._rewriting = rewriting

    async def run(self, stream: Stream) -> None:
        try:
            await self._exchange.relay(stream, self._rewriting)
        except (OSError, httptools.HttpParserError, zlib.error) as error:
            raise internal_error(error) from None
        finally:
            await self._exchange.close()


class _Tunnel:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def run(self, client: RawConnection) -> None:
        try:
            await self._exchange.tunnel(client)
        finally:
            await self._exchange.close()
            client.close()


def unreachable(target: Target, error: BaseException) -> StatusError:
    """What a client is told when the other side cannot be reached."""
    message = f"error trying to reach service: {failure(target, error)}"
    return StatusError(status_of(503, "ServiceUnavailable", message))


def node_address(addresses: Sequence[Mapping[str, str]]) -> str:
    """The address kubelets are reached at: the first that is an InternalIP, else by upstream's preference."""
    for kind in ("InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"):
        for one in addresses:
            if one.get("type") == kind and one.get("address"):
                return one["address"]
    return ""


def split_name(name: str) -> tuple[str, str, str]:
    """(scheme, name, port) of `[scheme:]name[:port]`."""
    parts = name.split(":")
    if len(parts) == 1:
        return "", name, ""
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0], parts[1], parts[2]
    raise bad_request(f'invalid service request "{name}"')


def _proxy_prefix(api: ApiRequest) -> str:
    """The request's path, undecoded, up to and including "/proxy"; what follows belongs to the target."""
    before, marker, behind = api.request.raw_path.partition(f"/{api.info.resource}/")
    name, proxy, _ = behind.partition("/proxy")
    return before + marker + name + proxy


def _with_query(api: ApiRequest, path: str) -> str:
    return f"{path}?{api.request.raw_query}" if api.request.raw_query else path


def _remaining_path(api: ApiRequest) -> str:
    """What of the request's path belongs to the target, undecoded, with the query."""
    rest = api.request.raw_path.removeprefix(_proxy_prefix(api))
    return _with_query(api, "/" + rest.removeprefix("/"))


def _to_root(api: ApiRequest) -> Response | None:
    """A proxy asked for without a path is sent to its root, where a page's relative links work; None: go on."""
    prefix = _proxy_prefix(api)
    if api.request.raw_path != prefix or api.request.method not in ("GET", "HEAD") or api.request.upgrade:
        return None
    return Response(301, content_type="", headers=[("Location", _with_query(api, prefix + "/"))])


def _links(api: ApiRequest) -> Links:
    return Links(_proxy_prefix(api), api.request.headers.get("host", ""))


def _as_asked(api: ApiRequest, target: Target) -> Target:
    """The target, told the host the client asked for: pages that name their own address name the proxy's."""
    return replace(target, host_header=api.request.headers.get("host", ""))


def _forwarded(api: ApiRequest) -> dict[str, str]:
    """The request's headers with those by which the target learns who asked for what."""
    given = api.request.headers
    through = [one for one in (given.get("x-forwarded-for", ""), api.request.remote_address) if one]
    return {**given, "x-forwarded-for": ", ".join(through), "x-forwarded-uri": api.request.raw_path}


def _header(head: Head, wanted: str) -> str:
    return next((value for name, value in head.headers if name.lower() == wanted), "")


def _pod(api: ApiRequest, served: ServedResource) -> Object:
    return served.store.decode(served.store.get(api.info.namespace, api.info.name))


def _assigned_node(pod: Object) -> str:
    node: str = (pod.get("spec") or {}).get("nodeName") or ""
    if not node:
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return node


def _names(pod: Object, field: str) -> list[str]:
    return [one["name"] for one in (pod.get("spec") or {}).get(field) or ()]


def _container(pod: Object, wanted: str) -> str:
    """The container a request is about: the only one when none is named. StatusError (400) otherwise."""
    name = pod["metadata"]["name"]
    containers = _names(pod, "containers")
    inits, ephemeral = _names(pod, "initContainers"), _names(pod, "ephemeralContainers")
    if wanted:
        if wanted not in (*containers, *inits, *ephemeral):
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if default in containers:
        return str(default)
    if len(containers) == 1:
        return containers[0]
    message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if inits:
        message += f" or one of the init containers: [{' '.join(inits)}]"
    if ephemeral:
        message += f" or one of the ephemeral containers: [{' '.join(ephemeral)}]"
    raise bad_request(message)


def _ports(pod: Object) -> list[Mapping[str, Any]]:
    return [port for one in (pod.get("spec") or {}).get("containers") or () for port in one.get("ports") or ()]


def _first_port(pod: Object) -> int:
    ports = _ports(pod)
    return int(ports[0]["containerPort"]) if ports else 80


def _named_port(pod: Object, name: str) -> int:
    for port in _ports(pod):
        if port.get("name") == name:
            return int(port["containerPort"])
    raise bad_request(f'no port named "{name}" in pod {pod["metadata"]["name"]}')


def _endpoint(api: ApiRequest, service: Object, wanted: str) -> Backend:
    """One of the ready endpoints of a service. StatusError (503) when nothing is ready."""
    name = service["metadata"]["name"]
    ports: Sequence[Mapping[str, Any]] = (service.get("spec") or {}).get("ports") or ()
    if not wanted and len(ports) == 1:
        port_name = ports[0].get("name", "")
    else:
        port_name = next(
            (one.get("name", "") for one in ports if wanted in (one.get("name", ""), str(one.get("port")))), None
        )
        if port_name is None:
            raise service_unavailable(f'no service port {wanted} found for service "{name}"')
    found: list[Backend] = []
    slices = api.services.reader.list("discovery.k8s.io", "endpointslices", api.info.namespace)
    for one in slices:
        if (one["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != name:
            continue
        for port in one.get("ports") or ():
            if (port.get("name") or "") != port_name or not port.get("port"):
                continue
            for endpoint in one.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    node = endpoint.get("nodeName") or ""
                    found += [Backend(one, int(port["port"]), node) for one in endpoint.get("addresses") or ()]
    if not found:
        raise service_unavailable(f'no endpoints available for service "{api.info.name}"')
    return random.choice(found)
