"""Volumes of pods: one plugin a kind (`plugin` is their contract), and who mounts and removes them (`manager`)."""
