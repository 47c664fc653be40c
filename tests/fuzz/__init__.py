"""Fuzzing of everything that reads bytes from outside: `make fuzz SECONDS=60`.

`targets` says what is fed and what must hold, `seeds` where the inputs begin, `__main__` gives each target its share of
the time in a process of its own. Without atheris the same targets run in `make test` on seeds and their mutations.
"""
