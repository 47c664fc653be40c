"""The store of one SQLite file. `store` is where it begins; the steps of its transactions are grouped by subject."""
