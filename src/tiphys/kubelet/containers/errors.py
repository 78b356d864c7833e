"""Why a container could not be brought up, as values the API shows.

`reason` becomes the Waiting state's reason, the message its message.
"""

from __future__ import annotations

from typing import Final

CREATE_CONTAINER_CONFIG_ERROR: Final = "CreateContainerConfigError"
CREATE_CONTAINER_ERROR: Final = "CreateContainerError"
RUN_CONTAINER_ERROR: Final = "RunContainerError"
POST_START_HOOK_ERROR: Final = "PostStartHookError"
PRE_CREATE_HOOK_ERROR: Final = "PreCreateHookError"
CRASH_LOOP_BACK_OFF: Final = "CrashLoopBackOff"
ERR_IMAGE_PULL: Final = "ErrImagePull"
IMAGE_PULL_BACK_OFF: Final = "ImagePullBackOff"
ERR_IMAGE_NEVER_PULL: Final = "ErrImageNeverPull"
INVALID_IMAGE_NAME: Final = "InvalidImageName"
IMAGE_INSPECT_ERROR: Final = "ImageInspectError"
REGISTRY_UNAVAILABLE: Final = "RegistryUnavailable"

# Reasons that are told in other words to who asks for the log.
IMAGE_TROUBLE: Final = {
    ERR_IMAGE_PULL: "image can't be pulled",
    IMAGE_PULL_BACK_OFF: "trying and failing to pull image",
}


class StartError(Exception):
    """A container was not started. `retry_after` is when to try again, in seconds, where that is known."""

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class ConfigError(StartError):
    """What the spec refers to is missing or not allowed: CreateContainerConfigError."""

    def __init__(self, message: str) -> None:
        super().__init__(CREATE_CONTAINER_CONFIG_ERROR, message)
