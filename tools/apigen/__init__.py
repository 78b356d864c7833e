"""Generator of `tiphys.api`: reads the definitions and the tables of facts, writes types, schemas and tables."""
