"""Every object's bytes in memory, per kind, with the recent history watchers resume from."""
