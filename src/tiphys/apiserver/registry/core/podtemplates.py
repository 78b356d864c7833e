"""PodTemplates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tiphys.apiserver.registry.defaults.pod import default_pod_template
from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object
from tiphys.apiserver.registry.tables import containers_and_images, labels_text
from tiphys.apiserver.registry.validation.pod import validate_pod_template
from tiphys.apiserver.registry.validation.pod_warnings import pod_warnings
from tiphys.machinery.field import FieldError, Path


class PodTemplateStrategy(TableStrategy):
    """A template and nothing else."""

    pod_spec = ("template", "spec")

    def default(self, obj: Object) -> None:
        default_pod_template(obj.get("template"))

    def validate(self, obj: Object) -> list[FieldError]:
        return validate_pod_template(obj.get("template"), Path("template"))

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        template = obj.get("template") or {}
        if old is not None and (old.get("template") or {}) == template:
            return []
        path = Path("template")
        metadata = template.get("metadata") or {}
        return pod_warnings(template.get("spec") or {}, metadata, path.child("spec"), path.child("metadata"))

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        template = obj.get("template") or {}
        containers, images = containers_and_images(template.get("spec") or {})
        return [name_of(obj), containers, images, labels_text((template.get("metadata") or {}).get("labels"))]
