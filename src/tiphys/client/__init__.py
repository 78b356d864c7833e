"""The client of the API: requests, informers and their caches, work queues, leader election, events.

Every component is written against this room alone; it knows nothing of any of them.
"""

from tiphys.client.cache import Indexer, Lister, key_of
from tiphys.client.config import RestConfig
from tiphys.client.controller import DONE, Controller, RequeueAfter, Result, enqueue
from tiphys.client.discovery import ApiResource, Discovery, discover
from tiphys.client.endpoint import Endpoint, Object, PartialObject, endpoint_of, metadata_endpoint
from tiphys.client.events import NORMAL, WARNING, EventRecorder, reference_to
from tiphys.client.expectations import Expectations
from tiphys.client.informer import Informers, SharedInformer
from tiphys.client.leaderelection import Election, LeaderElector, LeadershipLost
from tiphys.client.reflector import ListWatch, Reflector
from tiphys.client.rest import Client
from tiphys.client.results import EventType, ListResult, PatchType, Preconditions, WatchEvent
from tiphys.client.transport import ApiConnectionError, HttpTransport, Response, Transport
from tiphys.client.workqueue import WorkQueue

__all__ = [
    "DONE",
    "NORMAL",
    "WARNING",
    "HttpTransport",
    "ApiConnectionError",
    "ApiResource",
    "Client",
    "Controller",
    "Discovery",
    "Endpoint",
    "EventRecorder",
    "EventType",
    "Expectations",
    "Indexer",
    "Informers",
    "Election",
    "LeaderElector",
    "LeadershipLost",
    "ListResult",
    "ListWatch",
    "Lister",
    "Object",
    "PartialObject",
    "PatchType",
    "Preconditions",
    "Reflector",
    "RequeueAfter",
    "Response",
    "RestConfig",
    "Result",
    "SharedInformer",
    "Transport",
    "WatchEvent",
    "WorkQueue",
    "discover",
    "endpoint_of",
    "enqueue",
    "key_of",
    "metadata_endpoint",
    "reference_to",
]
