"""What an API server creates when it starts: namespaces, roles, the kubernetes Service, flow schemas and the like."""
