"""What the API is told of a pod: container states, phase and conditions (pure), and the writes (`manager`)."""
