"""One function on every rank: under Ray Train or in plain processes, with a watchdog over them."""
