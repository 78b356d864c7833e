"""The kubelet's Node: what the machine is (`machine`), its status (`status`), registration, heartbeats (`lease`)."""
