"""``portask bench``: load on any running broker, and what it made of it.

`commands` reads the command line, `conductor` starts and leads the processes that make the load, `worker` is one of
them. A worker runs `producing` and `consuming` over `portask.client`, as an application would: the figures are those of
broker and Python client together. `payloads` and `ledger` see to it that every message received is proven; `figures`
turns what the workers counted into rates, `summary` into words.
"""
