"""The Prometheus text format."""

from tiphys.base.metrics import Registry


def test_exposition() -> None:
    registry = Registry()
    requests = registry.counter("requests_total", "Requests served.", ["verb"])
    requests.labels('G"ET').inc()
    requests.labels("PUT").inc(2)
    registry.gauge("depth", "Items waiting.").labels().set(1.5)
    latency = registry.histogram("latency_seconds", "Latency.", buckets=(0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        latency.labels().observe(value)
    assert registry.expose().decode().splitlines() == [
        "# HELP depth Items waiting.",
        "# TYPE depth gauge",
        "depth 1.5",
        "# HELP latency_seconds Latency.",
        "# TYPE latency_seconds histogram",
        'latency_seconds_bucket{le="0.1"} 2',
        'latency_seconds_bucket{le="1"} 3',
        'latency_seconds_bucket{le="+Inf"} 4',
        "latency_seconds_sum 7.65",
        "latency_seconds_count 4",
        "# HELP requests_total Requests served.",
        "# TYPE requests_total counter",
        'requests_total{verb="G\\"ET"} 1',
        'requests_total{verb="PUT"} 2',
    ]


def test_a_family_without_series_is_not_shown() -> None:
    registry = Registry()
    registry.counter("coredns_requests_total", "Another component's, in the same image.")
    assert registry.expose() == b"\n"
