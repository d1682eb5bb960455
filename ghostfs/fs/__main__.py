"""`python -m ghostfs.fs`: the process of a mount in the background. `ghostfs.fs.starting` runs it."""

from __future__ import annotations

import sys

from ghostfs.fs.process import main

sys.exit(main())
