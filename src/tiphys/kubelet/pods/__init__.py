"""A pod's life on the node: which pods there are (`manager`), what to do next (`actions`), and doing it (`worker`)."""
