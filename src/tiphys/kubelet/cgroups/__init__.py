"""The node's cgroups for pods: the tree by quality of service (`tree`), on cgroup v1 (`v1`) and v2 (`v2`)."""
