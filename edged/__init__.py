"""edged: a resident small language model for appliances, asked over MQTT.

This module runs before any other of the package, so it is the place where ONNX Runtime's telemetry
is switched off: official Linux wheels carry an uploader that is on by default and reads this
variable at import.
"""

import os

__version__ = "0.2.0"

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
