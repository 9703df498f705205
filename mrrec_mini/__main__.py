"""Run the command `mrrec` as `python -m mrrec_mini`."""

from mrrec_mini.app.cli import main

if __name__ == "__main__":
    main()
