"""`python -m mrrec_mini` is `mrrec`."""

from mrrec_mini.app.cli import main

if __name__ == "__main__":
    main()
