"""Follows the lab's figures over commits, with asv. Which variant is best is the lab's question, not asv's.

    asv machine --yes          once a machine: writes down what it is
    asv run --quick            everything once, nothing kept: does it all work?
    asv run                    the newest commit of main, kept under .asv/results
    asv continuous main HEAD   did my change cost anything?
    asv publish && asv preview the figures over time, in a browser

asv builds each commit into an environment of its own and runs *this* checkout's benchmarks in it. So the work must be
this checkout's too, else a change of a workload would show as a change of speed: the lines below take `portask_lab`
from here, also in the processes that it starts, while `portask` and the variants are the commit's.

A variant whose library is missing is no parameter; `portask lab variants` says why. A combination that makes no sense
(a ring that moves one record a call, asked for batches) is shown as n/a.
"""

import os
import sys
from pathlib import Path

HERE = str(Path(__file__).resolve().parent.parent)
if sys.path[:1] != [HERE]:
    sys.path.insert(0, HERE)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HERE, os.environ.get("PYTHONPATH"))))
