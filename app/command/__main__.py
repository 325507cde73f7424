"""`python -m app.command`: `interp` where it is not installed as a command."""

import sys

from app.command import main

sys.exit(main())
