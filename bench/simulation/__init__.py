"""A large cluster on simulated nodes, and the scale tests on it, against Kubernetes' objectives.

__main__.py   the command: flags, the order of the phases, what happens when it is interrupted
phases.py     what is done to the cluster, and the state it must end in
rig.py        what every phase works with: clients, waiting, checks
pods.py       what the watch of all pods shows
probe.py      a client that asks all the while, and how long it waits
scrape.py     histograms of components, read between two moments
usage.py      CPU and memory of every process
standing.py   many pods put into the datastore, where only what they cost others is of interest
    results.py    what was found: a file after every phase, tables at the end
"""
