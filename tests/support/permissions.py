"""Runs a command to which the permissions of files apply, also where the tests run as root."""

import os

AS_ANYONE = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []  # begins the command
