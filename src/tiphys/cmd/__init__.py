"""One module a command: flags, configuration files, wiring. What a component does is in its own room."""
