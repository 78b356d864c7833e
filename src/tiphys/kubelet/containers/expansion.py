"""`$(VAR)` in commands, arguments and environment values.

https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/:
`$$` is a literal `$`; a reference to a variable that does not exist stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_TOKEN: Final = re.compile(r"\$(?:\$|\(([^()]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with every known reference replaced, once (values are not expanded again)."""
    if "$" not in text:
        return text
    return _TOKEN.sub(lambda match: _value(match, variables), text)


def expand_strictly(text: str, variables: Mapping[str, str]) -> str:
    """As `expand`, but an unknown variable raises KeyError (subPathExpr must not contain a guess)."""
    for match in _TOKEN.finditer(text):
        name = match.group(1)
        if name is not None and name not in variables:
            raise KeyError(name)
    return expand(text, variables)


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name = match.group(1)
    if name is None:
        return "$"
    return variables.get(name, match.group(0))
