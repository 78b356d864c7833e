"""What every room may use and what knows no Kubernetes: time, logging, metrics, gates, tasks."""
