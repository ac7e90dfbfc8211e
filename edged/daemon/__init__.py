"""The running service: threads, files, sensors and systemd around the node."""

import os

# numpy's threads spin while they wait, beside those of the model, and its matrices are small here.
# It reads the variable when it is imported, which nothing of this room has done so far.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
