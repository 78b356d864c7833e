"""Kubernetes in a test: a real API server with controllers, in a fraction of a second, without root or network.

    def test_my_operator(tiphys_cluster):              # the pytest fixture
        subprocess.run(["my-operator"], env={"KUBECONFIG": str(tiphys_cluster.kubeconfig)})

    with tiphys.testing.cluster() as cluster:          # anywhere else
        print(cluster.server, cluster.client_config.ca)

    python -m tiphys.testing my-operator --once        # a command, with KUBECONFIG set

Nothing here runs a cluster: that is done by another process (`tiphys.cmd.testserver`), so that no event loop, thread or
signal handler of the test is disturbed, and nothing heavy is imported into it. There are no nodes: pods stay Pending
unless the test plays the kubelet. docs/testing.md has more.
"""

from tiphys.testing.clusters import ClientConfig, Cluster, ClusterError, cluster

__all__ = ["ClientConfig", "Cluster", "ClusterError", "cluster"]
