"""The plainest correct variant of every family: what the fast ones are tested against."""
