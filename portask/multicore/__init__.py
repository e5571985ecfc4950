"""One broker in several processes: connection-per-core.

Each process, a *worker*, accepts connections at the same address (SO_REUSEPORT) and shares nothing: a topic-partition,
an inbox, and everything that happens in them belong to one of them, its *owner* (`owners`). What a client asks is
handled where it belongs: the worker that has the connection, its *home*, hands frames on over a pair of rings
(`links`), the owner handles them for a *proxy* (`sessions`) as if the client were connected there, and what comes back
goes to the client as it is. `routing` says which frame goes where, `purses` how a client's credit is shared by the
owners, `gathering` how answers of many become one.

`worker` is such a process, `supervisor` starts them and replaces those that die. A broker of one process has nothing of
all this on its way.
"""
