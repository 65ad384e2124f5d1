"""`python -m broker` is `leveret`."""

from broker.cli import main

main()
