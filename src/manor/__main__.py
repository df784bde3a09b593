"""`python -m manor` is the same as `manor`."""

from __future__ import annotations

from manor.cli.main import main

if __name__ == "__main__":
    main()
