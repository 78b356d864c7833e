"""Programs beside the kubelet that extend it: each makes a socket below `plugins_registry` and says who it is."""
