"""``python -m tests.system.broker.with_specialist run …``: a daemon with the specialist ``six``.

It was taught features that are made up, so it cannot be asked anything: the tiny model gives none.
"""

import argparse
import sys
from functools import partial

from edged.config.keys import Config
from edged.daemon.invocation import add_config_arguments, read_config
from edged.daemon.loader import ResidentModel, load
from edged.daemon.run import serve
from edged.specialists.installed import Installed
from edged.specialists.lesson import taught
from tests.unit.lessons import lesson

PROGRAM = ("-m", "tests.system.broker.with_specialist")


def load_with_specialist(config: Config) -> ResidentModel:
    """Load the model, and install the specialist."""
    model = load(config)
    model.specialists.installed = Installed(specialists={"six": taught(lesson(), lambda _: None)})
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run"])
    add_config_arguments(parser)
    sys.exit(serve(partial(read_config, parser.parse_args()), load_with_specialist))
