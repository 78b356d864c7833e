"""HTTP extenders: filter, score and bind decisions asked of a web service, for the pods it is interested in.

An opinion is asked for between two looks at the nodes: the extender sees those that pass every filter, and its answer,
which takes its time, is then laid over a fresh look. Pods no extender is interested in never wait for one.
Source: KubeSchedulerConfiguration v1 (Extender), "Scheduler Configuration"; on the wire as kube-scheduler sends it.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np

from tiphys.api.codec import encode_object
from tiphys.base.log import get_logger
from tiphys.base.tls import client_context
from tiphys.machinery.time import parse_duration
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import MAX_SCORE, Reason
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.preemption import Candidate

log = get_logger(__name__)

DEFAULT_TIMEOUT: Final = 5.0  # seconds
MAX_EXTENDER_SCORE: Final = 10.0
_KNOWN: Final = {
    *("urlPrefix", "filterVerb", "prioritizeVerb", "bindVerb", "preemptVerb", "weight", "enableHTTPS", "tlsConfig"),
    *("httpTimeout", "nodeCacheCapable", "managedResources", "ignorable"),
}


class ExtenderError(RuntimeError):
    """An extender that may not be ignored did not answer, or said it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtenderConfig:
    """One entry of `extenders`. `timeout` in seconds; verbs are appended to the URL, "" where it has none."""

    url_prefix: str
    filter_verb: str = ""
    prioritize_verb: str = ""
    bind_verb: str = ""
    preempt_verb: str = ""
    weight: int = 0
    timeout: float = DEFAULT_TIMEOUT
    node_cache_capable: bool = False
    managed_resources: frozenset[str] = frozenset()
    ignored_resources: frozenset[str] = frozenset()
    ignorable: bool = False
    tls: Mapping[str, Any] = field(default_factory=dict)


def load_extender(document: Mapping[str, Any]) -> ExtenderConfig:
    """From its part of the configuration. Raises ValueError with what is wrong."""
    unknown = sorted(set(document) - _KNOWN)
    if unknown:
        raise ValueError(f'extenders: unknown field "{unknown[0]}"')
    url = str(document.get("urlPrefix") or "").rstrip("/")
    if not url:
        raise ValueError("extenders: urlPrefix: Required value")
    weight = int(document.get("weight") or 0)
    if document.get("prioritizeVerb") and weight <= 0:
        raise ValueError(f"extender {url}: prioritizeVerb is given, so weight must be positive")
    managed = document.get("managedResources") or ()
    timeout = document.get("httpTimeout")
    return ExtenderConfig(
        url_prefix=url,
        filter_verb=document.get("filterVerb") or "",
        prioritize_verb=document.get("prioritizeVerb") or "",
        bind_verb=document.get("bindVerb") or "",
        preempt_verb=document.get("preemptVerb") or "",
        weight=weight,
        timeout=parse_duration(timeout).total_seconds() if timeout else DEFAULT_TIMEOUT,
        node_cache_capable=bool(document.get("nodeCacheCapable")),
        managed_resources=frozenset(each["name"] for each in managed),
        ignored_resources=frozenset(each["name"] for each in managed if each.get("ignoredByScheduler")),
        ignorable=bool(document.get("ignorable")),
        tls=(document.get("tlsConfig") or {}) if document.get("enableHTTPS") or url.startswith("https:") else {},
    )


@dataclass(slots=True)
class Opinion:
    """What the extenders say of a pod: the nodes left, why others are not, and scores to add."""

    allowed: set[str]
    texts: dict[str, tuple[str, bool]] = field(default_factory=dict)  # node → reason, whether evicting could help
    scores: dict[str, float] = field(default_factory=dict)

    def narrow(self, nodes: NodeTable, feasible: Mask) -> Mask | Unschedulable:
        """The feasible rows the extenders allow, or why there is none."""
        left = feasible & nodes.mask_of({nodes.row_of[name] for name in self.allowed if name in nodes.row_of})
        if left.any():
            return left
        found = Unschedulable(len(nodes), rows=nodes.alive.copy())
        grouped: dict[tuple[str, bool], set[int]] = {}
        for name, why in self.texts.items():
            if name in nodes.row_of:
                grouped.setdefault(why, set()).add(nodes.row_of[name])
        for (text, resolvable), rows in grouped.items():
            found.reasons.append(Reason(text, nodes.mask_of(rows), resolvable))
        rest = feasible & ~np.logical_or.reduce([each.rows for each in found.reasons] or [np.zeros_like(feasible)])
        if rest.any():
            found.reasons.append(Reason("node(s) were rejected by an extender", rest))
        return found

    def add_to(self, nodes: NodeTable, scores: Numbers | None) -> Numbers | None:
        """The scores with the extenders' added."""
        if not self.scores:
            return scores
        total: Numbers = np.zeros(nodes.width) if scores is None else scores.astype(float)
        for name, score in self.scores.items():
            if (row := nodes.row_of.get(name)) is not None:
                total[row] += score
        return total


class Extenders:
    """All extenders of the configuration, in its order."""

    def __init__(self, configs: Sequence[ExtenderConfig] = ()) -> None:
        """Raises ValueError for a TLS configuration that cannot be used."""
        self._all = tuple(_Extender(config) for config in configs)

    @property
    def ignored_resources(self) -> frozenset[str]:
        """Resources that extenders count, and the scheduler does not."""
        return frozenset().union(*(each.config.ignored_resources for each in self._all))

    def concern(self, pod: PodInfo) -> bool:
        """Whether any filters or scores this pod."""
        return any(each.is_interested(pod) and each.decides for each in self._all)

    async def opinion(self, pod: PodInfo, nodes: NodeTable, names: Sequence[str]) -> Opinion:
        """Ask all that are interested about these nodes. Raises ExtenderError."""
        opinion = Opinion(set(names))
        asked = [each for each in self._all if each.is_interested(pod)]
        for extender in asked:
            if extender.config.filter_verb and opinion.allowed:
                await extender.filter(pod, nodes, opinion)
        if len(opinion.allowed) > 1:
            scoring = [each for each in asked if each.config.prioritize_verb]
            left = sorted(opinion.allowed)
            for scores in await asyncio.gather(*(each.prioritize(pod, nodes, left) for each in scoring)):
                for name, score in scores.items():
                    opinion.scores[name] = opinion.scores.get(name, 0.0) + score
        return opinion

    def preempt_for(self, pod: PodInfo) -> bool:
        """Whether any has a say in whom this pod evicts."""
        return any(each.config.preempt_verb and each.is_interested(pod) for each in self._all)

    async def preempt(self, pod: PodInfo, nodes: NodeTable, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates that all who have a say leave, with the victims they leave. Raises ExtenderError."""
        for extender in self._all:
            if candidates and extender.config.preempt_verb and extender.is_interested(pod):
                candidates = await extender.preempt(pod, candidates)
        return candidates

    async def bind(self, pod: PodInfo, node: str) -> bool:
        """Let the extender bind that does so for this pod; False when none does. Raises ExtenderError."""
        for extender in self._all:
            if extender.config.bind_verb and extender.is_interested(pod):
                await extender.bind(pod, node)
                return True
        return False

    async def close(self) -> None:
        """Close every connection."""
        for extender in self._all:
            await extender.close()


class _Extender:
    def __init__(self, config: ExtenderConfig) -> None:
        self.config = config
        self._ssl = _ssl_context(config.tls) if config.tls else None
        self._session: aiohttp.ClientSession | None = None

    @property
    def decides(self) -> bool:
        return bool(self.config.filter_verb or self.config.prioritize_verb)

    def is_interested(self, pod: PodInfo) -> bool:
        managed = self.config.managed_resources
        return not managed or any(name in managed for name in _resources(pod))

    async def filter(self, pod: PodInfo, nodes: NodeTable, opinion: Opinion) -> None:
        """Narrow `opinion`."""
        names = sorted(opinion.allowed)
        try:
            answer = await self._ask(self.config.filter_verb, self._arguments(pod, nodes, names))
            if answer.get("error"):
                raise ExtenderError(str(answer["error"]))
        except ExtenderError as error:
            if not self.config.ignorable:
                raise
            log.warning("skipping extender %s as it returned error and has ignorable flag set: %s", self.name, error)
            return
        unresolvable: Mapping[str, str] = answer.get("failedandunresolvablenodes") or {}
        failed: Mapping[str, str] = answer.get("failednodes") or {}
        given = answer.get("nodenames") if self.config.node_cache_capable else None
        if given is None:
            items = (answer.get("nodes") or {}).get("items") or ()
            given = [item["metadata"]["name"] for item in items]
        opinion.allowed &= set(given)
        opinion.texts |= {name: (text, True) for name, text in failed.items()}
        opinion.texts |= {name: (text, False) for name, text in unresolvable.items()}

    async def prioritize(self, pod: PodInfo, nodes: NodeTable, names: Sequence[str]) -> dict[str, float]:
        """Scores to add; none when it does not answer, as scores are only wishes."""
        try:
            answer = await self._ask(self.config.prioritize_verb, self._arguments(pod, nodes, names))
        except ExtenderError as error:
            log.warning("extender %s does not score: %s", self.name, error)
            return {}
        scale = self.config.weight * MAX_SCORE / MAX_EXTENDER_SCORE
        return {
            each["host"]: float(each.get("score") or 0) * scale for each in answer.get("items", ()) if "host" in each
        }

    async def preempt(self, pod: PodInfo, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """What it leaves of the candidates; all of them when it fails and may be ignored."""
        known = self.config.node_cache_capable
        told = {
            each.node: {
                "Pods": [{"UID": one.uid} if known else msgspec.Raw(encode_object(one.pod)) for one in each.victims],
                "NumPDBViolations": each.violations,
            }
            for each in candidates
        }
        kind = "NodeNameToMetaVictims" if known else "NodeNameToVictims"
        body = {"Pod": msgspec.Raw(encode_object(pod.pod)), "NodeNameToVictims": None, "NodeNameToMetaVictims": None}
        try:
            answer = await self._ask(self.config.preempt_verb, msgspec.json.encode({**body, kind: told}))
            return _left_of(candidates, answer.get("nodenametometavictims") or {})
        except ExtenderError as error:
            if not self.config.ignorable:
                raise
            log.warning("skipping extender %s as it returned error and has ignorable flag set: %s", self.name, error)
            return candidates

    async def bind(self, pod: PodInfo, node: str) -> None:
        """Ask it to bind."""
        body = {"PodName": pod.key.name, "PodNamespace": pod.key.namespace, "PodUID": pod.uid, "Node": node}
        answer = await self._ask(self.config.bind_verb, msgspec.json.encode(body))
        if answer.get("error"):
            raise ExtenderError(str(answer["error"]))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def name(self) -> str:
        return self.config.url_prefix

    def _arguments(self, pod: PodInfo, nodes: NodeTable, names: Sequence[str]) -> bytes:
        body: dict[str, Any] = {"Pod": msgspec.Raw(encode_object(pod.pod)), "Nodes": None, "NodeNames": None}
        if self.config.node_cache_capable:
            body["NodeNames"] = names
        else:
            rows = (nodes.rows[nodes.row_of[name]] for name in names if name in nodes.row_of)
            items = [msgspec.Raw(encode_object(row.node)) for row in rows if row is not None]
            body["Nodes"] = {"metadata": {}, "items": items}
        return msgspec.json.encode(body)

    async def _ask(self, verb: str, body: bytes) -> dict[str, Any]:
        """POST; the answer with its keys in lower case, a list as {"items": …}. Raises ExtenderError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.config.timeout))
        url = f"{self.config.url_prefix}/{verb}"
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, ssl=self._ssl or True) as answer:
                if answer.status != 200:
                    raise ExtenderError(f"failed {verb} with extender at URL {url}, code {answer.status}")
                decoded = msgspec.json.decode(await answer.read())
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OSError) as error:
            raise ExtenderError(f"{verb} of extender at URL {url}: {error or type(error).__name__}") from error
        if isinstance(decoded, list):
            return {"items": [_lower(each) for each in decoded]}
        return _lower(decoded)


def _left_of(candidates: Sequence[Candidate], answer: Mapping[str, Any]) -> list[Candidate]:
    """The candidates of the answer. Raises ExtenderError when it names a node or a pod nobody told it of."""
    by_node = {each.node: each for each in candidates}
    left = []
    for node, value in answer.items():
        candidate, victims = by_node.get(node), _lower(value)
        named = [_lower(each).get("uid") for each in victims.get("pods") or ()]
        known = {} if candidate is None else {one.uid: one for one in candidate.victims}
        if candidate is None or not known.keys() >= set(named):
            raise ExtenderError(f"extender claims to preempt unknown pods on node {node}")
        kept = tuple(one for one in candidate.victims if one.uid in named)
        left.append(Candidate(node, candidate.row, kept, int(victims.get("numpdbviolations") or 0)))
    return left


def _lower(value: Any) -> dict[str, Any]:
    # Names are matched whatever their case, as the Go clients do who wrote these services.
    return {key.lower(): each for key, each in value.items()} if isinstance(value, dict) else {}


def _resources(pod: PodInfo) -> set[str]:
    names: set[str] = set()
    for container in (*pod.pod.spec.containers, *pod.pod.spec.init_containers):
        if container.resources is not None:
            names |= {*container.resources.requests, *container.resources.limits}
    return names


def _ssl_context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    """From ExtenderTLSConfig. Raises ValueError."""
    try:
        ca = base64.b64decode(tls.get("caData") or "").decode()
        context = client_context(authorities=ca, file=tls.get("caFile"))
        if tls.get("insecure"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if tls.get("certData"):
            # The library loads client certificates from files only.
            with NamedTemporaryFile() as both:
                data = b"\n".join(base64.b64decode(tls[name]) for name in ("certData", "keyData"))
                Path(both.name).write_bytes(data)
                context.load_cert_chain(both.name)
        elif tls.get("certFile"):
            context.load_cert_chain(tls["certFile"], tls.get("keyFile"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"extenders: tlsConfig: {error}") from error
    return context
