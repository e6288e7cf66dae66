"""`python -m lrd_peft` is `lrd`."""

import sys

from lrd_peft.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
