"""Load balancers and routes, made by whoever runs the machines: the interface to them, and its controllers.

    provider.py   what a provider can do; `NO_PROVIDER` can do nothing
    services.py   `service-lb-controller`: a load balancer for each Service that asks for one
    routes.py     `node-route-controller`: a route to each node's pods

https://kubernetes.io/docs/concepts/architecture/cloud-controller/
"""
