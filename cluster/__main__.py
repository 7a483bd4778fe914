"""`python -m cluster` is `raymill`: what a submitted job's entry point runs."""

from cluster.cli import main

main()
