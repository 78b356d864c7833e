"""One file a plugin; `dns.table` says which there are and in which order they are asked."""
