"""Where pods come from besides the API: files on the node (`static`), and their shadows in the API (`mirror`)."""
