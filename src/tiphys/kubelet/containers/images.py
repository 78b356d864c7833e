"""Makes a container's image present, by its pull policy, one failure at a time.

https://kubernetes.io/docs/concepts/containers/images/#updating-images. Pulls of one image by several
pods are one pull; a failure is retried after 10 s, doubling to 5 min, and until then the container
waits as ImagePullBackOff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from tiphys.api.core.v1 import Pod, Secret
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.backoff import Backoff
from tiphys.kubelet.containers import errors
from tiphys.kubelet.containers.credentials import credentials_for
from tiphys.kubelet.containers.errors import StartError
from tiphys.kubelet.containers.references import InvalidReference, with_default_tag
from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.machinery.time import format_duration

log = get_logger(__name__)

UNLIMITED_PULLS: Final = 1_000_000
# Seconds a failure is shown as ErrImagePull, before the container waits for the next try as ImagePullBackOff.
SHOW_FAILURE: Final = 1.0
# https://kubernetes.io/docs/reference/instrumentation/metrics/
PULL_DURATION: Final = REGISTRY.histogram(
    "kubelet_image_pull_duration_seconds",
    "[ALPHA] Duration in seconds to pull an image.",
    ("image_size_in_bytes",),
    (1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
_SIZES: Final = (  # the least of each, in MiB
    (100 * 1024, "GT100GB"),
    (60 * 1024, "60GB-100GB"),
    (40 * 1024, "40GB-60GB"),
    (30 * 1024, "30GB-40GB"),
    (20 * 1024, "20GB-30GB"),
    (10 * 1024, "10GB-20GB"),
    (5 * 1024, "5GB-10GB"),
    (1024, "1GB-5GB"),
    (500, "500MB-1GB"),
    (100, "100MB-500MB"),
    (10, "10MB-100MB"),
    (0, "0-10MB"),
)


class Emit(Protocol):
    """Records an event about the container at hand."""

    def __call__(self, kind: str, reason: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Failure:
    at: datetime
    message: str


class ImageManager:
    """Answers with the image a container is to run from, pulling it where that is allowed and needed."""

    def __init__(self, runtime: CRIClient, clock: Clock, *, serialize: bool = True, parallel: int = 0) -> None:
        self._runtime = runtime
        self._clock = clock
        self._backoff = Backoff(clock)
        self._failures: dict[str, _Failure] = {}
        self._pulling: dict[str, float] = {}  # seconds by pod uid
        # Two limits of the configuration: one at a time, or so many at a time (0: no limit).
        self._slots = asyncio.Semaphore(1 if serialize else parallel or UNLIMITED_PULLS)

    async def ensure(
        self, pod: Pod, image: str, policy: str, secrets: Sequence[Secret], config: cri.PodSandboxConfig, emit: Emit
    ) -> cri.Image:
        """The image by this name. Raises StartError with the reason the container waits for."""
        try:
            name = with_default_tag(image)
        except InvalidReference as error:
            message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {error}'
            emit("Warning", "InspectFailed", message)
            raise StartError(errors.INVALID_IMAGE_NAME, message) from error
        spec = cri.ImageSpec(image=name, user_specified_image=image)
        present = await self._present(spec, image, emit)
        if present is not None and policy != "Always":
            emit(
                "Normal",
                "Pulled",
                f'Container image "{image}" already present on machine and can be accessed by the pod',
            )
            return present
        if policy == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            emit("Warning", "ErrImageNeverPull", message)
            raise StartError(errors.ERR_IMAGE_NEVER_PULL, message)
        return await self._pull(pod, spec, image, secrets, config, emit)

    async def _present(self, spec: cri.ImageSpec, image: str, emit: Emit) -> cri.Image | None:
        try:
            return await self._runtime.image(spec)
        except CRIError as error:
            message = f'Failed to inspect image "{image}": {error}'
            emit("Warning", "InspectFailed", message)
            raise StartError(errors.IMAGE_INSPECT_ERROR, message) from error

    async def _pull(
        self,
        pod: Pod,
        spec: cri.ImageSpec,
        image: str,
        secrets: Sequence[Secret],
        config: cri.PodSandboxConfig,
        emit: Emit,
    ) -> cri.Image:
        key = f"{pod.metadata.uid}_{spec.image}"
        failure = self._failures.get(key)
        left = self._backoff.remaining(key, failure.at).total_seconds() if failure else 0.0
        if failure is not None and left > 0:
            message = f'Back-off pulling image "{image}"'
            emit("Normal", "BackOff", message)
            detail = f"{message}: {errors.ERR_IMAGE_PULL}: {failure.message}"
            raise StartError(errors.IMAGE_PULL_BACK_OFF, detail, retry_after=left)
        emit("Normal", "Pulling", f'Pulling image "{image}"')
        asked = self._clock.monotonic()
        try:
            async with self._slots:
                began = self._clock.monotonic()
                reference = await self._pull_with_credentials(spec, credentials_for(spec.image, secrets), config)
        except CRIError as error:
            emit("Warning", "Failed", f'Failed to pull image "{image}": {error}')
            self._note_failure(key, str(error))
            raise StartError(errors.ERR_IMAGE_PULL, str(error), retry_after=SHOW_FAILURE) from error
        finally:
            uid = pod.metadata.uid
            self._pulling[uid] = self._pulling.get(uid, 0.0) + self._clock.monotonic() - asked
        self._forget(key)
        found = await self._present(cri.ImageSpec(image=reference), image, emit)
        if found is None:
            found = await self._present(spec, image, emit)
        if found is None:
            raise StartError(errors.ERR_IMAGE_PULL, f'Failed to pull image "{image}": it is not there after the pull')
        ended = self._clock.monotonic()
        PULL_DURATION.labels(size_range(found.size)).observe(ended - began)
        emit(
            "Normal",
            "Pulled",
            f'Successfully pulled image "{image}" in {_milliseconds(ended - began)} '
            f"({_milliseconds(ended - asked)} including waiting). Image size: {found.size} bytes.",
        )
        return found

    async def _pull_with_credentials(
        self, spec: cri.ImageSpec, credentials: list[cri.AuthConfig], config: cri.PodSandboxConfig
    ) -> str:
        """Try every credential there is; the last failure counts."""
        failure: CRIError | None = None
        attempts: list[cri.AuthConfig | None] = [*credentials] or [None]
        for auth in attempts:
            try:
                return await self._runtime.pull_image(spec, auth, config)
            except CRIError as error:
                failure = error
        assert failure is not None
        raise failure

    def pulling(self, uid: str) -> float:
        """Seconds that a pod has waited for pulls of its images so far."""
        return self._pulling.get(uid, 0.0)

    def forget_pod(self, uid: str) -> None:
        """Drop what is known of a pod that is gone."""
        self._pulling.pop(uid, None)
        self._backoff.forget_prefix(uid)
        self._failures = {key: failure for key, failure in self._failures.items() if not key.startswith(uid)}

    def _note_failure(self, key: str, message: str) -> None:
        now = self._clock.now()
        self._backoff.next(key, now)
        self._failures[key] = _Failure(now, message)

    def _forget(self, key: str) -> None:
        self._backoff.forget(key)
        self._failures.pop(key, None)


def size_range(size: int) -> str:
    """The range of sizes that an image of so many bytes falls into."""
    return next(name for least, name in _SIZES if size >= least * 1024 * 1024)


def _milliseconds(seconds: float) -> str:
    return format_duration(timedelta(milliseconds=round(seconds * 1000)))
