"""The schemas as clients ask for them: OpenAPI v2 and v3."""
