"""Image references, completed as Docker does."""

from __future__ import annotations

import pytest

from tiphys.runtime.images.reference import InvalidReference, parse

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1.27@{DIGEST}", f"docker.io/library/nginx:1.27@{DIGEST}"),
        ("Registry.Example/app", "Registry.Example/app:latest"),
    ],
)
def test_parse(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text", ["", ":tag", "UPPER", "a//b", "-a", "a:", "nginx@sha256:abc", "a b", "../x", "x" * 300, "host:99999x/a"]
)
def test_invalid(text: str) -> None:
    with pytest.raises(InvalidReference, match="invalid"):
        parse(text)
