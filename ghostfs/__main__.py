"""`python -m ghostfs` is the `ghostfs` command."""

from __future__ import annotations

import sys

from ghostfs.cli import main

sys.exit(main())
