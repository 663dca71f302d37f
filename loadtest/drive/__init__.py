"""Load on one machine: servers are started, driven by a process of its own, and watched."""
