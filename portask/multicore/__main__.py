"""``python -m portask.multicore FD``; see `portask.multicore.worker`."""

from portask.multicore.worker import main

main()
