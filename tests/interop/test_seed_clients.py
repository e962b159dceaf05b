"""Clients of the first version of the contract."""

import subprocess
import sys
from pathlib import Path

EXPECTED = """\
Greeter client received: Hello, you!
client Square 231 get :15.198683738708496
File Read: Error: read failed
File Write: 0
File Read: 37183714ghgjh243
"""


def test_seed_clients_print_the_same_as_before(address):
    assert output_of("seed_greeter_client.py", address) + output_of("seed_file_client.py", address) == EXPECTED


def output_of(script, address):
    command = [sys.executable, Path(__file__).with_name(script), address]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=20, check=True).stdout
