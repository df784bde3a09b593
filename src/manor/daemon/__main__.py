"""`python -m manor.daemon`."""

from manor.daemon.main import main

main()
