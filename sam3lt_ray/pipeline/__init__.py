"""Planning and running: Ray Data, actors, passes, summaries. Ray lives here only."""

import os

# Ray Data's executions on one cluster share its resources by reservations that expire. A driver that was killed renews
# nothing any more, but the next one would wait a minute for its share. Ray Data reads these when it is imported.
os.environ.setdefault("RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS", "4")
os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "12")
