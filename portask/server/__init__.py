"""Servers: shells that move bytes between sockets and the broker. `build` makes a broker of the settings' choices."""
