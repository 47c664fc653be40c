"""The published prices, as a table that ships with the package.

`data/prices.json` is compiled from genai-prices by `python -m policyd.prices.compile` (`make prices`) and committed;
`policyd.prices.table` says what it looks like and reads it; `policyd.prices.table_file` reads one that an operator
gives in its place. genai-prices itself is for developers only: importing it would slow policyd's start down and bring
an HTTP client along.
"""
