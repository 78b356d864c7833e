"""BGP between the nodes and to routers beside them, spoken by BIRD: `settings`, its `config`, and `bird` runs it."""
