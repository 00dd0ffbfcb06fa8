"""The worker's command line in a process that cannot outlive the demo, however the demo ends.

Without it, a demo killed outright would leave a worker behind that looks for its broker for ever.
"""

from __future__ import annotations

import sys

from worker.__main__ import main
from worker.child import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
