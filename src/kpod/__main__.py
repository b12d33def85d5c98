"""`python -m kpod`, which accelerate launch and torchrun can start."""

import sys

from kpod.commands.command_line import main

if __name__ == "__main__":
    sys.exit(main())
