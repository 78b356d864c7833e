"""The pull policy an image reference implies.

https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting
"""


def pull_policy_for(image: str) -> str:
    """Always for `:latest` or an image with neither tag nor digest, else IfNotPresent."""
    name, at, _digest = image.partition("@")
    last = name.rsplit("/", 1)[-1]
    _, colon, tag = last.partition(":")
    if colon:
        return "Always" if tag == "latest" else "IfNotPresent"
    return "IfNotPresent" if at else "Always"
