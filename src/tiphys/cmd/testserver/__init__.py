"""The process behind `tiphys.testing`: a fork server whose every child is a cluster without nodes.

    test process ──socket──► fork server          imports once; one message, one fork
         │                        │ fork
         └──────socket──────► cluster             API server and controllers in one event loop, store in memory

The sockets are the life line: a side that reads the end of its socket ends, so that nothing is left of a test run
that was killed.
"""
