"""PersistentVolumes and claims: bound to each other, given back, grown.

    claims.py      what a claim says, and what it wants of a volume: pure
    match.py       which volume a claim gets: pure
    binder.py      the controller that binds, and moves both through their phases
    expander.py    the controller that lets bound claims grow
    ephemeral.py   claims made for one pod
    classes.py     protection of VolumeAttributesClasses in use

https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from tiphys.controllers.persistentvolume.binder import PersistentVolumeBinder
from tiphys.controllers.persistentvolume.classes import VACProtectionController
from tiphys.controllers.persistentvolume.ephemeral import EphemeralVolumeController
from tiphys.controllers.persistentvolume.expander import PersistentVolumeExpander

__all__ = [
    "EphemeralVolumeController",
    "PersistentVolumeBinder",
    "PersistentVolumeExpander",
    "VACProtectionController",
]
