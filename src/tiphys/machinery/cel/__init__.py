"""CEL, the Common Expression Language, as Kubernetes speaks it: parsed, type-checked, compiled to closures, metered.

    text ─ parser ─▶ ast ─ checker (types of variables) ─▶ type, errors ─ compiler ─▶ Program ─ evaluate ─▶ value
                                                          └ estimate (sizes from a schema) ─▶ worst cost

https://kubernetes.io/docs/reference/using-api/cel/  https://github.com/google/cel-spec/blob/master/doc/langdef.md

PyPI's cel-python was looked at first: it has no static types, no optionals, no cost, and walks its grammar's tree at
about a hundredth of the speed, so the language is here.
"""
