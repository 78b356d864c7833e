"""Resources of running pods, changed in place (KEP-1287): what is asked for, allocated, and in force.

```
 spec of the API ──(feasibility: has the node room?)──► allocation ──(plan, actuate)──► what containers run with
   desired                                              status.allocatedResources       status.resources
```
"""
