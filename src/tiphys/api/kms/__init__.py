"""The KMS plug-in API, version 2: how the API server has its keys sealed by a key service."""
