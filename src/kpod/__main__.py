"""`python -m kpod`, which accelerate launch and torchrun can start."""

import sys

from kpod.cli import main

if __name__ == "__main__":
    sys.exit(main())
