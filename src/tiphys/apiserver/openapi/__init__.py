"""The schemas as clients ask for them: OpenAPI v2 (JSON and protobuf) and v3 (a document a group and version).

Names and shapes come from our own tables, descriptions from the `kubernetes-validate` package at run time.
"""
