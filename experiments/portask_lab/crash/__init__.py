"""Kills a broker again and again while it is at work, and counts what is lost.

A real broker (``portask serve``, in a process of its own) keeps a topic in a durable storage. Producers publish to it
and write down each message id that was acknowledged; consumers read. The broker gets SIGKILL at random moments, some of
them while it is still starting, and is started again on the same folder and port. In the end the log is read back,
without the broker, and held against what was written down.

What must hold, whatever the moment:

* Every acknowledged message is in the log, byte for byte, where its acknowledgement said (*lost*, *misplaced*).
* In each partition, the messages of one producer lie in the order in which it published them (*disordered*).
* A message is there more than once only if its producer sent it again; never if that producer numbers its batches
  (*duplicated*, *duplicated in spite of numbers*).
* Whatever a consumer was given is still in the log, at that offset (*taken back*); a subscription gets each offset
  once, in order; and every acknowledged message was delivered (*undelivered*).

A broker may have several workers: then in every other round only one of them is killed, while the others go on, and the
broker's supervisor has to replace it.

SIGKILL takes the process and leaves the kernel: it proves nothing about the loss of power. Mode ``synced`` runs here
too, because a broker that syncs can lose messages in other ways.

`course` says when what happens; `broker` is the victim, `load` works with it meanwhile, `judge` reckons.
"""

from portask_lab.crash.course import Findings, drill

__all__ = ["Findings", "drill"]
