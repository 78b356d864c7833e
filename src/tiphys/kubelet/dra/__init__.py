"""Device claims on the node: drivers make devices ready before a pod starts, and take them back when it has ended."""
