"""``python -m raykv`` is the command ``raykv``, where that is not on the path."""

from __future__ import annotations

from raykv.cli.main import main

if __name__ == "__main__":
    main()
