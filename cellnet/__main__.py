"""The command ``python -P -m cellnet``."""

from cellnet.cli import main

if __name__ == "__main__":
    main(prog_name="cellnet")
