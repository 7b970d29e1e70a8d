"""`python -m treehead_monitor` is `treehead-monitor`."""

import sys

from treehead_monitor.cli import main

sys.exit(main())
