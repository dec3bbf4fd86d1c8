"""``python -m treadle`` is the command ``treadle``, for `torchrun` and whoever has no scripts on the path."""

from treadle.cli import main

if __name__ == "__main__":
    main()
