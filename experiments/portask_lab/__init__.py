"""Portask's lab: measures every registered variant on this machine and these messages, and picks the winners."""
