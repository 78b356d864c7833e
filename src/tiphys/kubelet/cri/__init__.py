"""The kubelet's side of CRI v1: the calls (`client`), what they report (`state`), and our marks on it (`labels`)."""
