"""What each kind is: a folder a group, a file a resource, with its defaults, validation and what may change."""
