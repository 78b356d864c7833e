"""Node-pressure eviction: what is measured (`signals`), whom it hits (`ranking`), and doing it (`manager`)."""
