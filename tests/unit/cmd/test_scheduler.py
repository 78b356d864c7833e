"""The configuration file's leader election and client are those of the flags, which go over it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tiphys.cmd.errors import UsageError
from tiphys.cmd.scheduler import _defaults
from tiphys.scheduler.config import load

HEAD = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}


def test_the_file_says_what_flags_do_not() -> None:
    assert _defaults(load(HEAD)) == {}
    election = {"leaderElect": False, "leaseDuration": "1m", "resourceName": "mine", "resourceLock": "leases"}
    document = {**HEAD, "leaderElection": election, "clientConnection": {"kubeconfig": "/etc/k", "qps": 50}}
    assert _defaults(load(document)) == {
        "leader_elect": False,
        "leader_elect_lease_duration": timedelta(minutes=1),
        "leader_elect_resource_name": "mine",
        "kubeconfig": Path("/etc/k"),
    }


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="leaderElection"):
        _defaults(load({**HEAD, "leaderElection": {"leaseDuration": "soon"}}))
