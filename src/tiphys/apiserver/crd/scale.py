"""The scale subresource of custom objects: the paths say where the numbers are."""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.schemas import schema_of
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.crd.jsonpath import simple_steps
from tiphys.apiserver.crd.strategy import CustomStrategy, value_at
from tiphys.apiserver.endpoints.body import BodyDecoder, check_write_options, media_type_of
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.managed import own_replicas
from tiphys.apiserver.endpoints.patch import Patch, patch_type
from tiphys.apiserver.endpoints.scale import SCALE, scale_answer
from tiphys.apiserver.endpoints.write import check_names
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import Object
from tiphys.machinery.errors import internal_error, invalid, modified
from tiphys.machinery.field import Path, quote
from tiphys.machinery.field import invalid as invalid_field

_KEPT: Final = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


class CustomScale:
    """Answers GET, PUT and PATCH of a scale."""

    async def __call__(self, api: ApiRequest, served: ServedResource) -> Response:
        if api.request.method in ("GET", "HEAD"):
            entry = await served.store.current(api.info.namespace, api.info.name)
            return scale_answer(api, scale_of(_strategy(served), served.store.decode(entry)))
        schema = schema_of("autoscaling", "v1", "Scale")
        patch: Patch | None = None
        body: Object = {}
        if api.request.method == "PATCH":
            patch = Patch(api, SCALE, schema, patch_type(api))
        else:
            check_write_options(api.query, "UpdateOptions")
            decoder = BodyDecoder(SCALE, schema, api.parameter("fieldValidation"), api.warnings)
            body = decoder.decode(api.request.body, media_type_of(api.request.headers.get("content-type", "")))
            check_names(api, body, namespaced=served.resource.namespaced, named=True)
        return await self._write(api, served, patch, body)

    async def _write(self, api: ApiRequest, served: ServedResource, patch: Patch | None, body: Object) -> Response:
        strategy = _strategy(served)
        assert strategy.scale is not None
        path = strategy.scale["specReplicasPath"]
        ctx = api.context()
        admission = RequestAdmission(api, served, Operation.UPDATE, {"kind": "UpdateOptions"}, kind=SCALE)

        async def make(old: Object | None, revision: int) -> Object:
            assert old is not None
            current = scale_of(strategy, old)
            wanted = patch.apply(current) if patch is not None else body
            version = wanted["metadata"].get("resourceVersion")
            if version and version != str(revision):
                raise modified(served.group_resource, api.info.name)
            await admission.mutate(wanted, current)
            replicas = (wanted.get("spec") or {}).get("replicas") or 0
            if replicas < 0:
                problem = invalid_field(Path(path), replicas, "should be a non-negative integer")
                raise invalid(served.group_kind, api.info.name, [problem])
            new = served.store.decode(await served.store.current(ctx.namespace, ctx.name))
            _set(new, simple_steps(path), replicas)
            if patch is not None or not version:
                new["metadata"].pop("resourceVersion", None)
            own_replicas(ctx, old, new, current, scale_of(strategy, new), simple_steps(path))
            return new

        written = await served.store.update(ctx, make, admission, patching=True)
        return scale_answer(api, scale_of(strategy, served.store.decode(written.entry)))


def _strategy(served: ServedResource) -> CustomStrategy:
    strategy = served.strategy
    assert isinstance(strategy, CustomStrategy)
    return strategy


def _set(obj: Object, names: tuple[str, ...], value: Any) -> None:
    for name in names[:-1]:
        obj = obj.setdefault(name, {})
    obj[names[-1]] = value


def scale_of(strategy: CustomStrategy, obj: Object) -> Object:
    """The Scale of a custom object. StatusError (500) for one without a replica count."""
    paths = strategy.scale or {}
    path = paths.get("specReplicasPath", "")
    replicas = value_at(obj, path)
    if replicas is None:
        raise internal_error(f"the spec replicas field {quote(path)} does not exist")
    scale: Object = {
        "kind": SCALE.kind,
        "apiVersion": SCALE.api_version,
        "metadata": {name: obj["metadata"][name] for name in _KEPT if name in obj["metadata"]},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {"replicas": value_at(obj, paths.get("statusReplicasPath", "")) or 0},
    }
    selector = value_at(obj, paths.get("labelSelectorPath") or "")
    if selector:
        scale["status"]["selector"] = selector
    return scale
