"""The command ``python -P -m provisioning``."""

from __future__ import annotations

from provisioning.cli import main

if __name__ == "__main__":
    main(prog_name="python -m provisioning")
