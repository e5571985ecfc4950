"""``python -m portask.cli`` is ``portask``."""

from portask.cli import main

main()
