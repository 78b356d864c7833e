"""Device plugins: who offers devices (`plugins`), who has which (`ledger`), and the story of both (`manager`).

https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""
