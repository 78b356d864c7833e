"""Encryption at rest: what the store holds of chosen resources is sealed, what the server works with is not.

    configuration.py   the EncryptionConfiguration: which resources, which providers, in which order
    providers.py       one configuration made to work: a transformer for each resource
    keeper.py          puts it around the store, and reads the file again when it changes
    sealed.py          a Store around the store that seals and opens values
    aes.py, secretbox.py, identity.py, kms/   how one value is sealed

What is stored is what kube-apiserver stores, prefixes and additional data included, so that each reads the other's.
https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""
