"""`python -m uploadcore_http`: serve as the environment says."""

import sys

from uploadcore_http.server import main

sys.exit(main())
