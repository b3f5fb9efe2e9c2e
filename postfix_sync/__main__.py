"""`python -m postfix_sync`, the same as the command postfix-sync."""

import sys

from postfix_sync.cli.command_line import main

sys.exit(main())
