"""What every part shares about Kubernetes objects, without knowing any kind: names, times, quantities, selectors,
patches, codecs and Status errors.
"""
