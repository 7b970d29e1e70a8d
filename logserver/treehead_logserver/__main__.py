"""`python -m treehead_logserver` is `treehead-log`."""

import sys

from treehead_logserver.cli import main

sys.exit(main())
