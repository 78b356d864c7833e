"""Between bytes and plain JSON values (dict, list, str, int, float, bool, None).

`json` and `yaml` decode what clients send and say what a strict server objects to; `protobuf` is the table-driven
binary encoding. What a value means is the schema's business (`tiphys.machinery.normalize`).
"""

from __future__ import annotations

from tiphys.machinery.codec.json import decode_json, encode_json
from tiphys.machinery.codec.strict import strict_message, strict_problems
from tiphys.machinery.codec.yaml import Document, decode_yaml, encode_yaml

__all__ = [
    "Document",
    "decode_json",
    "decode_yaml",
    "encode_json",
    "encode_yaml",
    "strict_message",
    "strict_problems",
]
