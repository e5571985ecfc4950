"""Workers: steps that run off the loop."""
